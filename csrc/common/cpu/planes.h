// Rows of packed pixels and planes of one channel each, on the CPU.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad {

// Three planes of `count` elements, each `pitch` behind the one before, of pixels of Column levels.
template <int Column, class V>
[[gnu::noinline]] void split_three(const uint8_t* __restrict from, int64_t count, V* __restrict to, int64_t pitch) {
  V *green = to + pitch, *blue = green + pitch;
  HANDGRAD_SIMD
  for (int64_t x = 0; x < count; ++x) {
    to[x] = static_cast<V>(from[Column * x]);
    green[x] = static_cast<V>(from[Column * x + 1]), blue[x] = static_cast<V>(from[Column * x + 2]);
  }
}

template <class V>
[[gnu::noinline]] void widen_run(const uint8_t* __restrict from, int64_t stride, int64_t count, V* __restrict to) {
  if (stride == 1) {
    HANDGRAD_SIMD
    for (int64_t x = 0; x < count; ++x) to[x] = static_cast<V>(from[x]);
  } else {
    for (int64_t x = 0; x < count; ++x) to[x] = static_cast<V>(from[x * stride]);
  }
}

// to[3 i + c] = from[c * pitch + i]
template <class E>
[[gnu::noinline]] void interleave_three(const E* __restrict from, int64_t pitch, int64_t count, E* __restrict to) {
  const E *red = from, *green = from + pitch, *blue = from + 2 * pitch;
#pragma omp simd simdlen(32 / sizeof(E))
  for (int64_t i = 0; i < count; ++i) to[3 * i] = red[i], to[3 * i + 1] = green[i], to[3 * i + 2] = blue[i];
}

}  // namespace handgrad
