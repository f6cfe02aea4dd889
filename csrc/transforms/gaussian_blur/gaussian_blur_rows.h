// Rows of numbers on the CPU: the one sum that every filter is made of, and rows between memory and the type they are
// computed in.
//
// Weights are even, so a sum is of pairs: weight * (row + other row). Along a row the pair is the row itself, moved to
// either side; across rows it is the rows above and below; a row alone has zeros for its other. Nothing here is
// fused, so that levels are the same on every processor and device.
#pragma once

#include <algorithm>

#include "cpu/image_rows.h"
#include "cpu/planes.h"
#include "cpu/scratch.h"
#include "gaussian_blur_host.h"
#include "math/convert.h"

namespace handgrad::gaussian_blur {

template <class C>
struct Pair {
  const C *one, *other;
  C weight;
};

// So many pairs at once, whose addresses the processor's registers hold.
inline constexpr int kPairs = 5;

// to[i] = the sum over pairs, the first of which has no other; or, of Further ones, to[i] and the sum.
template <bool Further, int Count, class C>
[[gnu::noinline]] void sum_some(const Pair<C>* pairs, int64_t from, int64_t length, C* __restrict to) {
  const C *one[Count], *other[Count];
  C weight[Count];
  for (int k = 0; k < Count; ++k) one[k] = pairs[k].one + from, other[k] = pairs[k].other + from;
  for (int k = 0; k < Count; ++k) weight[k] = pairs[k].weight;
  to += from;
  HANDGRAD_SIMD
  for (int64_t i = 0; i < length; ++i) {
    C total = Further ? to[i] + weight[0] * (one[0][i] + other[0][i]) : weight[0] * one[0][i];
#pragma GCC unroll 8
    for (int k = 1; k < Count; ++k) total += weight[k] * (one[k][i] + other[k][i]);
    to[i] = total;
  }
}

template <bool Further, int Count, class C>
void sum_up_to(int64_t count, const Pair<C>* pairs, int64_t from, int64_t length, C* to) {
  if constexpr (Count > 1) {
    if (count < Count) return sum_up_to<Further, Count - 1>(count, pairs, from, length, to);
  }
  sum_some<Further, Count>(pairs, from, length, to);
}

// to[i] = the sum over pairs, in their order; the first has no other.
template <class C>
void sum_pairs(const Pair<C>* pairs, int64_t count, int64_t length, C* to) {
  // What the nearest cache holds while all pairs are added.
  constexpr int64_t kRun = 8192 / sizeof(C);
  for (int64_t from = 0; from < length; from += kRun) {
    const int64_t some = std::min(kRun, length - from);
    sum_up_to<false, kPairs>(count, pairs, from, some, to);
    for (int64_t k = kPairs; k < count; k += kPairs) sum_up_to<true, kPairs>(count - k, pairs + k, from, some, to);
  }
}

[[gnu::noinline]] inline void store_levels(const float* __restrict from, int64_t count, uint8_t* __restrict to,
                                           int64_t stride) {
  if (stride == 1) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) to[i] = level_of(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * stride] = level_of(from[i]);
  }
}

template <class C>
void load_row(const SourceRows& rows, int64_t at, int64_t stride, int64_t count, C* to) {
  if constexpr (std::is_same_v<C, float>) {
    if (rows.dtype == ScalarType::Byte) return widen_run(rows.data + at, stride, count, to);
  }
  load_run(rows.dtype, rows.data, at, stride, count, to);
}
template <class C>
void store_row(const C* from, int64_t count, const TargetRows& rows, int64_t at, int64_t stride) {
  if constexpr (std::is_same_v<C, float>) {
    if (rows.dtype == ScalarType::Byte) return store_levels(from, count, rows.data + at, stride);
  }
  store_run(rows.dtype, from, count, rows.data, at, stride);
}

}  // namespace handgrad::gaussian_blur
