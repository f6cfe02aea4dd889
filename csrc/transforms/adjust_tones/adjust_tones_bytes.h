// The loops over levels on the CPU: those that look up and count, one element after the other, and those that the
// compiler vectorises.
//
// In order of appearance: what is found out; what is made.
#pragma once

#include <array>

#include "adjust_tones_math.h"

namespace handgrad::adjust_tones {

using Table = std::array<uint8_t, kLevels>;

// Bytes that are computed with alike, or each in its own way: a multiple of those of a vector, and of 1, 3 and 4
// channels side by side, so that what belongs to a channel is always in the same lanes.
inline constexpr int kLanes = 192;

// ---- what is found out ---------------------------------------------------------------------------------------------

// Counts of one channel, in four tables: an element need not wait for the one before it, which often is the same level.
using Counts = std::array<std::array<uint32_t, kLevels>, 4>;

[[gnu::noinline]] inline void count_levels(const uint8_t* from, int64_t stride, int64_t count, Counts& counts) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4, from += 4 * stride) {
    ++counts[0][from[0]], ++counts[1][from[stride]];
    ++counts[2][from[2 * stride]], ++counts[3][from[3 * stride]];
  }
  for (; i < count; ++i, from += stride) ++counts[0][*from];
}

// The least and the largest of `count` levels that are `Lanes` apart, for each of so many lanes.
template <int Lanes>
[[gnu::noinline]] void widen_ends(const uint8_t* __restrict from, int64_t count, uint8_t* __restrict low,
                                  uint8_t* __restrict high) {
  for (int64_t i = 0; i < count; ++i, from += Lanes) {
    HANDGRAD_SIMD
    for (int lane = 0; lane < Lanes; ++lane) {
      low[lane] = from[lane] < low[lane] ? from[lane] : low[lane];
      high[lane] = from[lane] > high[lane] ? from[lane] : high[lane];
    }
  }
}

// ---- what is made ---------------------------------------------------------------------------------------------------

[[gnu::noinline]] inline void look_up(const Table& table, const uint8_t* __restrict from, int64_t from_stride,
                                      int64_t count, uint8_t* __restrict to, int64_t to_stride) {
  const uint8_t* levels = table.data();
  for (int64_t i = 0; i < count; ++i) to[i * to_stride] = levels[from[i * from_stride]];
}

[[gnu::noinline]] inline void mask_bytes(const uint8_t* from, int64_t count, uint8_t mask, uint8_t* to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] & mask;
}
[[gnu::noinline]] inline void turn_bytes(const uint8_t* from, int64_t count, uint8_t least, uint8_t* to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(from[i] ^ (from[i] >= least ? 0xff : 0));
}

// x * slopes + starts, truncated, for lanes that repeat; the results are levels.
struct Lines {
  float slopes[kLanes], starts[kLanes];
};
[[gnu::noinline]] inline void stretch_bytes(const uint8_t* __restrict from, int64_t count, const Lines& lines,
                                            uint8_t* __restrict to) {
  const float* __restrict slopes = lines.slopes;
  const float* __restrict starts = lines.starts;
  const auto stretch_block = [=](const uint8_t* __restrict x, int64_t lanes, uint8_t* __restrict y) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < lanes; ++i)
      y[i] = static_cast<uint8_t>(static_cast<int32_t>(static_cast<float>(x[i]) * slopes[i] + starts[i]));
  };
  int64_t begin = 0;
  for (; begin + kLanes <= count; begin += kLanes) stretch_block(from + begin, kLanes, to + begin);
  stretch_block(from + begin, count - begin, to + begin);
}

}  // namespace handgrad::adjust_tones
