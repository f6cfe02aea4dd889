// The loops over the channels of one bilinear sample (math/bilinear.h): channels are innermost, so that each of its
// corners is one run of memory.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad {

template <class C>
void sample_channels(int64_t count, const C* const (&x)[4], const C (&weight)[4], C* __restrict column) {
  const C *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
  const C w0 = weight[0], w1 = weight[1], w2 = weight[2], w3 = weight[3];
  HANDGRAD_SIMD
  for (int64_t c = 0; c < count; ++c) column[c] = w0 * x0[c] + w1 * x1[c] + w2 * x2[c] + w3 * x3[c];
}

// The same, added to what is there.
template <class C>
void add_sample_channels(int64_t count, const C* const (&x)[4], const C (&weight)[4], C* __restrict column) {
  const C *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
  const C w0 = weight[0], w1 = weight[1], w2 = weight[2], w3 = weight[3];
  HANDGRAD_SIMD
  for (int64_t c = 0; c < count; ++c) column[c] += w0 * x0[c] + w1 * x1[c] + w2 * x2[c] + w3 * x3[c];
}

// What is made of one sample in a derivative, as constants of the loop over its channels: the sample itself, a
// column of a matrix; what it adds to the gradients of its corners; and the sums of its gradient times the corners, for
// the gradients of the point and of the factor.
template <bool Columns, bool Scatter, bool Sums, class C>
void differentiate_channels(int64_t count, const C* const (&x)[4], const C (&weight)[4], const C* __restrict grad,
                            C* __restrict column, C* const (&grad_x)[4], C (&sums)[4]) {
  const C *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
  const C w0 = weight[0], w1 = weight[1], w2 = weight[2], w3 = weight[3];
  C* __restrict g0 = grad_x[0], * __restrict g1 = grad_x[1], * __restrict g2 = grad_x[2], * __restrict g3 = grad_x[3];
  C s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (int64_t c = 0; c < count; ++c) {
    if constexpr (Columns) column[c] = w0 * x0[c] + w1 * x1[c] + w2 * x2[c] + w3 * x3[c];
    if constexpr (Scatter || Sums) {
      const C g = grad[c];
      if constexpr (Sums) s0 += g * x0[c], s1 += g * x1[c], s2 += g * x2[c], s3 += g * x3[c];
      if constexpr (Scatter) g0[c] += w0 * g, g1[c] += w1 * g, g2[c] += w2 * g, g3[c] += w3 * g;
    }
  }
  sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

// The same but for columns, of Count channels, a multiple of 16: the sums in a tree, where a compiler that must keep to
// an order adds what is left of a vector one by one.
template <int64_t Count, bool Scatter, bool Sums, class C>
[[gnu::always_inline]] inline void differentiate_channels(const C* const (&x)[4], const C (&weight)[4],
                                                          const C* __restrict grad, C* const (&grad_x)[4],
                                                          C (&sums)[4]) {
  constexpr int64_t kLanes = 16;
  static_assert(Count % kLanes == 0);
  C eights[32];
  for (int q = 0; q < 4; ++q) {
    const C* xq = x[q];
    C* __restrict gq = grad_x[q];
    const C w = weight[q];
    C lanes[kLanes] = {};
    for (int64_t c = 0; c < Count; c += kLanes) {
      HANDGRAD_SIMD
      for (int64_t i = 0; i < kLanes; ++i) {
        if constexpr (Sums) lanes[i] += grad[c + i] * xq[c + i];
        if constexpr (Scatter) gq[c + i] += w * grad[c + i];
      }
    }
    HANDGRAD_SIMD
    for (int64_t i = 0; i < 8; ++i) eights[8 * q + i] = lanes[i] + lanes[8 + i];
  }
  C fours[16];
  for (int q = 0; q < 4; ++q) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < 4; ++i) fours[4 * q + i] = eights[8 * q + i] + eights[8 * q + 4 + i];
  }
  for (int q = 0; q < 4; ++q) sums[q] = (fours[4 * q] + fours[4 * q + 2]) + (fours[4 * q + 1] + fours[4 * q + 3]);
}

}  // namespace handgrad
