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

// Channels of one position. Factors and sums are arrays of `run.count`, one behind the other.
template <class C, bool Rectified, RowPass Pass>
struct SpatialRow {
  static constexpr bool kGradient = Pass == RowPass::gradient, kSecond = Pass == RowPass::second;

  template <bool Squares, bool Others>
  [[gnu::noinline]] static void sum(const SpatialRun<C>& run, const C* __restrict factors, C* __restrict to) {
    const C* __restrict x = run.x, * __restrict g = run.g, * __restrict v = run.v;
    const int64_t n = run.count;
    C* __restrict squares = to, * __restrict slope = to + n, * __restrict third = to + 2 * n, * __restrict fourth = to + 3 * n;
    HANDGRAD_SIMD
    for (int64_t c = 0; c < n; ++c) {
      const C x_c = x[c];
      if constexpr (Squares) squares[c] += x_c * x_c;
      if constexpr (Squares && kSecond) fourth[c] += x_c * v[c];
      if constexpr (Others && Pass != RowPass::value) {
        const auto element = element_of(factors, n, c);
        const C kept = element.kept(x_c, g[c]);
        slope[c] += kept * x_c;
        third[c] += kSecond ? kept * v[c] : kept;
        if constexpr (kGradient && Rectified) fourth[c] += element.cut(x_c, g[c]);
      }
    }
  }

  [[gnu::noinline]] static void write(const SpatialRun<C>& run, const C* __restrict factors) {
    const C* __restrict x = run.x, * __restrict g = run.g, * __restrict v = run.v;
    C* __restrict output = run.output, * __restrict grad_input = run.grad_input;
    const int64_t n = run.count;
    if constexpr (Pass == RowPass::value) {
      HANDGRAD_SIMD
      for (int64_t c = 0; c < n; ++c) output[c] = element_of(factors, n, c).value(x[c]);
    } else if constexpr (kGradient) {
      HANDGRAD_SIMD
      for (int64_t c = 0; c < n; ++c) {
        grad_input[c] = element_of(factors, n, c).grad_input(x[c], g[c], factors[kOfInput * n + c]);
      }
    } else {
      HANDGRAD_SIMD
      for (int64_t c = 0; c < n; ++c) {
        const auto made = element_of(factors, n, c)
                              .second(x[c], g[c], v[c], factors[kMoved * n + c], factors[kOfInput * n + c],
                                      factors[kOfDirection * n + c], factors[kDirectionShift * n + c],
                                      factors[kDirectionFloor * n + c]);
        output[c] = made.grad_grad_output;
        grad_input[c] = made.grad_input;
      }
    }
  }

 private:
  HANDGRAD_MATH static SpatialElement<C, Rectified> element_of(const C* factors, int64_t n, int64_t c) {
    return {factors[kScale * n + c], factors[kShift * n + c], factors[kFloor * n + c]};
  }
};

}  // namespace handgrad
