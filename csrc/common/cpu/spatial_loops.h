// The loops of a normalisation by sums over positions on the CPU: along the positions of one channel, which share its
// factors, and along the channels of one position, each of which has its own. The arithmetic is math/spatial_norm.h's.
#pragma once

#include "abi/macros.h"
#include "cpu/row_operands.h"
#include "math/spatial_norm.h"

namespace handgrad {

// A run of elements that lie densely: what is read, and where results go; null for what is not there.
template <class C>
struct SpatialRun {
  const C *x, *g, *v;
  C *output, *grad_input;
  int64_t count;
};

// Positions of one channel. `factors` are its own, one after the other.
template <class C, bool Rectified, RowPass Pass>
struct SpatialPlane {
  static constexpr bool kGradient = Pass == RowPass::gradient, kSecond = Pass == RowPass::second;

  // Adds to the sums `to`: those of squares and of x v, which need no factors, or the others, or all of them.
  template <bool Squares, bool Others>
  [[gnu::noinline]] static void sum(const SpatialRun<C>& run, const C* factors, double* to) {
    const C* __restrict x = run.x, * __restrict g = run.g, * __restrict v = run.v;
    const SpatialElement<C, Rectified> element{factors[kScale], factors[kShift], factors[kFloor]};
    C squares = 0, slope = 0, third = 0, fourth = 0;
#pragma omp simd reduction(+ : squares, slope, third, fourth)
    for (int64_t i = 0; i < run.count; ++i) {
      const C x_i = x[i];
      if constexpr (Squares) squares += x_i * x_i;
      if constexpr (Squares && kSecond) fourth += x_i * v[i];
      if constexpr (Others && Pass != RowPass::value) {
        const C kept = element.kept(x_i, g[i]);
        slope += kept * x_i;
        third += kSecond ? kept * v[i] : kept;
        if constexpr (kGradient && Rectified) fourth += element.cut(x_i, g[i]);
      }
    }
    const C sums[kSpatialSums] = {squares, slope, third, fourth};
    for (int k = 0; k < kSpatialSums; ++k) to[k] += static_cast<double>(sums[k]);
  }

  [[gnu::noinline]] static void write(const SpatialRun<C>& run, const C* factors) {
    const C* __restrict x = run.x, * __restrict g = run.g, * __restrict v = run.v;
    C* __restrict output = run.output, * __restrict grad_input = run.grad_input;
    const SpatialElement<C, Rectified> element{factors[kScale], factors[kShift], factors[kFloor]};
    const C moved = factors[kMoved], of_input = factors[kOfInput], of_direction = factors[kOfDirection];
    const C direction_shift = factors[kDirectionShift], direction_floor = factors[kDirectionFloor];
    if constexpr (Pass == RowPass::value) {
      HANDGRAD_SIMD
      for (int64_t i = 0; i < run.count; ++i) output[i] = element.value(x[i]);
    } else if constexpr (kGradient) {
      HANDGRAD_SIMD
      for (int64_t i = 0; i < run.count; ++i) grad_input[i] = element.grad_input(x[i], g[i], of_input);
    } else {
      HANDGRAD_SIMD
      for (int64_t i = 0; i < run.count; ++i) {
        const auto made =
            element.second(x[i], g[i], v[i], moved, of_input, of_direction, direction_shift, direction_floor);
        output[i] = made.grad_grad_output;
        grad_input[i] = made.grad_input;
      }
    }
  }
};

// Channels of one position. Factors and sums are arrays of `run.count`, one behind the other; each has a pointer of its
// own, without which these loops do not become vectors.
template <class C, bool Rectified, RowPass Pass>
struct SpatialRow {
  static constexpr bool kGradient = Pass == RowPass::gradient, kSecond = Pass == RowPass::second;

  template <bool Squares, bool Others>
  [[gnu::noinline]] static void sum(const SpatialRun<C>& run, const C* __restrict factors, C* __restrict to) {
    const int64_t n = run.count;
    const C* __restrict x = run.x;
    const C* __restrict g = run.g;
    const C* __restrict v = run.v;
    const C* __restrict scale = factors + kScale * n;
    const C* __restrict shift = factors + kShift * n;
    const C* __restrict floor = factors + kFloor * n;
    C* __restrict squares = to;
    C* __restrict slope = to + n;
    C* __restrict third = to + 2 * n;
    C* __restrict fourth = to + 3 * n;
    HANDGRAD_SIMD
    for (int64_t c = 0; c < n; ++c) {
      const C x_c = x[c];
      if constexpr (Squares) squares[c] += x_c * x_c;
      if constexpr (Squares && kSecond) fourth[c] += x_c * v[c];
      if constexpr (Others && Pass != RowPass::value) {
        const SpatialElement<C, Rectified> element{scale[c], shift[c], floor[c]};
        const C kept = element.kept(x_c, g[c]);
        slope[c] += kept * x_c;
        third[c] += kSecond ? kept * v[c] : kept;
        if constexpr (kGradient && Rectified) fourth[c] += element.cut(x_c, g[c]);
      }
    }
  }

  [[gnu::noinline]] static void write(const SpatialRun<C>& run, const C* __restrict factors) {
    const int64_t n = run.count;
    const C* __restrict x = run.x;
    const C* __restrict g = run.g;
    const C* __restrict v = run.v;
    C* __restrict output = run.output;
    C* __restrict grad_input = run.grad_input;
    const C* __restrict scale = factors + kScale * n;
    const C* __restrict shift = factors + kShift * n;
    const C* __restrict floor = factors + kFloor * n;
    const C* __restrict moved = factors + kMoved * n;
    const C* __restrict of_input = factors + kOfInput * n;
    const C* __restrict of_direction = factors + kOfDirection * n;
    const C* __restrict direction_shift = factors + kDirectionShift * n;
    const C* __restrict direction_floor = factors + kDirectionFloor * n;
    HANDGRAD_SIMD
    for (int64_t c = 0; c < n; ++c) {
      const SpatialElement<C, Rectified> element{scale[c], shift[c], floor[c]};
      if constexpr (Pass == RowPass::value) {
        output[c] = element.value(x[c]);
      } else if constexpr (kGradient) {
        grad_input[c] = element.grad_input(x[c], g[c], of_input[c]);
      } else {
        const auto made = element.second(x[c], g[c], v[c], moved[c], of_input[c], of_direction[c], direction_shift[c],
                                         direction_floor[c]);
        output[c] = made.grad_grad_output;
        grad_input[c] = made.grad_input;
      }
    }
  }
};

}  // namespace handgrad
