// Filters of windows on the CPU, of a few rows each.
//
// Every filter is a sum of rows, a step apart: along a row the step is one number, across rows it is a row. So all
// loops run along rows and vectorise, and a run of sums stays in registers while the taps are walked.
#pragma once

#include <utility>

#include "math/window_moments.h"

namespace handgrad {

namespace detail {

// What rows may be read and written beyond their ends, so that no run of sums need be cut short; and where they begin.
inline constexpr int32_t kWindowSpare = 64, kWindowAlignment = 16;

template <int Lanes, class C>
HANDGRAD_MATH void add_tap(C weight, const C* from, C (&total)[Lanes]) {
  HANDGRAD_SIMD
  for (int lane = 0; lane < Lanes; ++lane) total[lane] += weight * from[lane];
}
template <int Lanes, class C>
HANDGRAD_MATH void keep(const C (&total)[Lanes], C* to) {
  HANDGRAD_SIMD
  for (int lane = 0; lane < Lanes; ++lane) to[lane] = total[lane];
}

template <int Lanes, class C>
HANDGRAD_MATH void sum_taps(const C* from, int64_t step, const C* weights, int32_t taps, C* __restrict to) {
  C total[Lanes] = {};
  for (int32_t j = 0; j < taps; ++j) add_tap<Lanes>(weights[j], from + j * step, total);
  keep<Lanes>(total, to);
}

// Four results, a step apart as their taps are, for which most rows are loaded once. The order of each sum is the same.
template <int Lanes, class C>
HANDGRAD_MATH void sum_taps_of_four(const C* from, int64_t step, const C* weights, int32_t taps, C* __restrict to,
                                    int64_t to_step) {
  C a[Lanes] = {}, b[Lanes] = {}, c[Lanes] = {}, d[Lanes] = {};
  add_tap<Lanes>(weights[0], from, a);
  add_tap<Lanes>(weights[1], from + step, a);
  add_tap<Lanes>(weights[0], from + step, b);
  add_tap<Lanes>(weights[2], from + 2 * step, a);
  add_tap<Lanes>(weights[1], from + 2 * step, b);
  add_tap<Lanes>(weights[0], from + 2 * step, c);
  const C* row = from + 3 * step;
  for (int32_t j = 3; j < taps; ++j, row += step) {
    const C first = weights[j], second = weights[j - 1], third = weights[j - 2], fourth = weights[j - 3];
    HANDGRAD_SIMD
    for (int lane = 0; lane < Lanes; ++lane) {
      const C pixel = row[lane];
      a[lane] += first * pixel;
      b[lane] += second * pixel;
      c[lane] += third * pixel;
      d[lane] += fourth * pixel;
    }
  }
  add_tap<Lanes>(weights[taps - 1], row, b);
  add_tap<Lanes>(weights[taps - 2], row, c);
  add_tap<Lanes>(weights[taps - 3], row, d);
  add_tap<Lanes>(weights[taps - 1], row + step, c);
  add_tap<Lanes>(weights[taps - 2], row + step, d);
  add_tap<Lanes>(weights[taps - 1], row + 2 * step, d);
  keep<Lanes>(a, to);
  keep<Lanes>(b, to + to_step);
  keep<Lanes>(c, to + 2 * to_step);
  keep<Lanes>(d, to + 3 * to_step);
}

// to[i] = the sum of weights[j] * from[i + j * step]. Compiled apart, or the compiler forgets that the sums can be held
// in registers.
template <class C>
[[gnu::noinline]] void filter_row(const C* from, int64_t step, const C* weights, int32_t taps, int32_t count,
                                  C* __restrict to) {
  constexpr int kLong = 256 / sizeof(C), kShort = 64 / sizeof(C);
  int32_t i = 0;
  for (; i + kLong <= count; i += kLong) sum_taps<kLong>(from + i, step, weights, taps, to + i);
  for (; i < count; i += kShort) sum_taps<kShort>(from + i, step, weights, taps, to + i);
}
template <class C>
[[gnu::noinline]] void filter_four_rows(const C* from, int64_t step, const C* weights, int32_t taps, int32_t count,
                                        C* __restrict to, int64_t to_step) {
  constexpr int kLong = 128 / sizeof(C), kShort = 64 / sizeof(C);
  int32_t i = 0;
  for (; i + kLong <= count; i += kLong) sum_taps_of_four<kLong>(from + i, step, weights, taps, to + i, to_step);
  for (; i < count; i += kShort) sum_taps_of_four<kShort>(from + i, step, weights, taps, to + i, to_step);
}

// Four rows, pitch apart, each as filter_row has it: four sums that do not wait for each other.
template <int Lanes, class C>
HANDGRAD_MATH void sum_taps_of_rows(const C* from, int64_t pitch, const C* weights, int32_t taps, C* __restrict to,
                                    int64_t to_pitch) {
  C a[Lanes] = {}, b[Lanes] = {}, c[Lanes] = {}, d[Lanes] = {};
  for (int32_t j = 0; j < taps; ++j) {
    const C weight = weights[j];
    const C* const pixel = from + j;
    HANDGRAD_SIMD
    for (int lane = 0; lane < Lanes; ++lane) {
      a[lane] += weight * pixel[lane];
      b[lane] += weight * pixel[pitch + lane];
      c[lane] += weight * pixel[2 * pitch + lane];
      d[lane] += weight * pixel[3 * pitch + lane];
    }
  }
  keep<Lanes>(a, to);
  keep<Lanes>(b, to + to_pitch);
  keep<Lanes>(c, to + 2 * to_pitch);
  keep<Lanes>(d, to + 3 * to_pitch);
}
template <class C>
[[gnu::noinline]] void filter_along_four_rows(const C* from, int64_t pitch, const C* weights, int32_t taps,
                                              int32_t count, C* __restrict to, int64_t to_pitch) {
  constexpr int kLong = 128 / sizeof(C), kShort = 64 / sizeof(C);
  int32_t i = 0;
  for (; i + kLong <= count; i += kLong) sum_taps_of_rows<kLong>(from + i, pitch, weights, taps, to + i, to_pitch);
  for (; i < count; i += kShort) sum_taps_of_rows<kShort>(from + i, pitch, weights, taps, to + i, to_pitch);
}

// Rows of two images, of which sums over windows are taken across rows: of u, v, their squares and their product.
inline constexpr int32_t kRowsAtOnce = 4;

template <class C>
struct AveragedRows {
  const C *u, *v;
  int32_t pitch, count;
  const C* weights;

  AveragedRows below(int32_t rows) const { return {u + rows * pitch, v + rows * pitch, pitch, count, weights}; }

  // Sums over `taps` rows from each of so many on; those of average k begin at to + k * kRowsAtOnce * pitch. A row is
  // read once for all of them.
  template <int Averages, int Rows>
  [[gnu::noinline]] void across(int32_t taps, C* __restrict to) const {
    constexpr int kLanes = 64 / sizeof(C);
    for (int32_t i = 0; i < count; i += kLanes) {
      C total[Averages][Rows][kLanes] = {};
      if constexpr (Rows > 1) {
        add_first<Averages>(i, total, std::make_integer_sequence<int, Rows - 1>());
        for (int32_t j = Rows - 1; j < taps; ++j) add<0, Rows>(i, j, total);
        add_last<Averages>(i, taps, total, std::make_integer_sequence<int, Rows - 1>());
      } else {
        for (int32_t j = 0; j < taps; ++j) add<0, 1>(i, j, total);
      }
      for (int k = 0; k < Averages; ++k) {
        for (int row = 0; row < Rows; ++row) keep<kLanes>(total[k][row], to + (k * kRowsAtOnce + row) * pitch + i);
      }
    }
  }

 private:
  // The part of row j in the sums from rows First to End - 1 on.
  template <int First, int End, int Averages, int Rows, int Lanes>
  HANDGRAD_MATH void add(int32_t i, int32_t j, C (&total)[Averages][Rows][Lanes]) const {
    const C *const a = u + j * pitch + i, *const b = v + j * pitch + i;
    HANDGRAD_SIMD
    for (int lane = 0; lane < Lanes; ++lane) {
#pragma GCC unroll 8
      for (int k = 0; k < Averages; ++k) {
        const C x = averaged(k, a[lane], b[lane]);
#pragma GCC unroll 8
        for (int row = First; row < End; ++row) total[k][row][lane] += weights[j - row] * x;
      }
    }
  }
  template <int Averages, int Rows, int Lanes, int... J>
  HANDGRAD_MATH void add_first(int32_t i, C (&total)[Averages][Rows][Lanes], std::integer_sequence<int, J...>) const {
    (add<0, J + 1>(i, J, total), ...);
  }
  template <int Averages, int Rows, int Lanes, int... J>
  HANDGRAD_MATH void add_last(int32_t i, int32_t taps, C (&total)[Averages][Rows][Lanes],
                              std::integer_sequence<int, J...>) const {
    (add<J + 1, Rows>(i, taps + J, total), ...);
  }
};

}  // namespace detail

}  // namespace handgrad
