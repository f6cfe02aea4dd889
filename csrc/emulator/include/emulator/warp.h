// Shuffles, votes, matches and reductions of a warp, and __syncwarp.
#pragma once

#include <bit>
#include <cstring>

#include "../cuda_bf16.h"
#include "../cuda_fp16.h"
#include "engine_calls.h"

namespace handgrad::emulator {

template <class T>
uint64_t to_lane_value(T value) {
  static_assert(sizeof(T) <= 8, "a lane can give at most 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T from_lane_value(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
HANDGRAD_EMULATOR_UNSEEN T shuffle(const char* function, unsigned mask, T value, unsigned source, Place where) {
  return from_lane_value<T>(warp_shuffle(function, mask, to_lane_value(value), source, where));
}

// The lane's place in its segment of `width` lanes.
inline unsigned segment_start(unsigned me, int width) { return me & ~(static_cast<unsigned>(width) - 1); }

}  // namespace handgrad::emulator

#define HANDGRAD_WARP_TYPES(declare)                                                                                 \
  declare(int) declare(unsigned) declare(long) declare(unsigned long) declare(long long) declare(unsigned long long) \
      declare(float) declare(double) declare(__half) declare(__nv_bfloat16)

// Overloads, not templates: CUDA's are overloads too, and convert their arguments as such.
#define HANDGRAD_SHUFFLES(T)                                                                                   \
  inline T __shfl_sync(unsigned mask, T value, int from, int width = 32, HANDGRAD_EMULATOR_WHERE) {            \
    const unsigned start = handgrad::emulator::segment_start(handgrad::emulator::lane(), width);               \
    const unsigned source = start + (static_cast<unsigned>(from) & (static_cast<unsigned>(width) - 1));        \
    return handgrad::emulator::shuffle(__func__, mask, value, source, {file, line});                           \
  }                                                                                                            \
  inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, HANDGRAD_EMULATOR_WHERE) {   \
    const unsigned me = handgrad::emulator::lane(), start = handgrad::emulator::segment_start(me, width);      \
    const unsigned source = me - start >= delta ? me - delta : me;                                             \
    return handgrad::emulator::shuffle(__func__, mask, value, source, {file, line});                           \
  }                                                                                                            \
  inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, HANDGRAD_EMULATOR_WHERE) { \
    const unsigned me = handgrad::emulator::lane(), start = handgrad::emulator::segment_start(me, width);      \
    const unsigned source = me - start + delta < static_cast<unsigned>(width) ? me + delta : me;               \
    return handgrad::emulator::shuffle(__func__, mask, value, source, {file, line});                           \
  }                                                                                                            \
  inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, HANDGRAD_EMULATOR_WHERE) {        \
    const unsigned me = handgrad::emulator::lane(), other = me ^ static_cast<unsigned>(bits);                  \
    /* Lanes of an earlier segment may be read, lanes of a later one may not. */                               \
    const unsigned end = handgrad::emulator::segment_start(me, width) + static_cast<unsigned>(width);          \
    return handgrad::emulator::shuffle(__func__, mask, value, other < end ? other : me, {file, line});         \
  }
HANDGRAD_WARP_TYPES(HANDGRAD_SHUFFLES)
#undef HANDGRAD_SHUFFLES

inline void __syncwarp(unsigned mask = 0xffffffffu, HANDGRAD_EMULATOR_WHERE) {
  handgrad::emulator::warp_meet(handgrad::emulator::Collective::syncwarp, __func__, mask, 0, {file, line});
}
// Any mask that holds the caller would be a legal answer; this is the set of lanes that have not returned. Code that
// takes it for "the lanes in this branch" deadlocks here, and is reported.
inline unsigned __activemask() { return handgrad::emulator::live_lanes(); }

HANDGRAD_EMULATOR_UNSEEN inline unsigned __ballot_sync(unsigned mask, int predicate, HANDGRAD_EMULATOR_WHERE) {
  const uint64_t* brought = handgrad::emulator::warp_meet(handgrad::emulator::Collective::ballot, __func__, mask,
                                                          predicate != 0, {file, line});
  unsigned votes = 0;
  for (unsigned other = 0; other < 32; ++other) votes |= (mask >> other & 1 && brought[other] ? 1u : 0u) << other;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, HANDGRAD_EMULATOR_WHERE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, HANDGRAD_EMULATOR_WHERE) {
  return __ballot_sync(mask, !predicate, file, line) == 0;
}

#define HANDGRAD_MATCHES(T)                                                                                       \
  HANDGRAD_EMULATOR_UNSEEN inline unsigned __match_any_sync(unsigned mask, T value, HANDGRAD_EMULATOR_WHERE) {    \
    const uint64_t mine = handgrad::emulator::to_lane_value(value);                                               \
    const uint64_t* brought =                                                                                     \
        handgrad::emulator::warp_meet(handgrad::emulator::Collective::match, __func__, mask, mine, {file, line}); \
    unsigned same = 0;                                                                                            \
    for (unsigned other = 0; other < 32; ++other) {                                                               \
      same |= (mask >> other & 1 && brought[other] == mine ? 1u : 0u) << other;                                   \
    }                                                                                                             \
    return same;                                                                                                  \
  }
HANDGRAD_MATCHES(int)
HANDGRAD_MATCHES(unsigned)
HANDGRAD_MATCHES(long long)
HANDGRAD_MATCHES(unsigned long long)
HANDGRAD_MATCHES(float)
HANDGRAD_MATCHES(double)
#undef HANDGRAD_MATCHES

#define HANDGRAD_WARP_REDUCTION(name, T, combine)                                                                    \
  HANDGRAD_EMULATOR_UNSEEN inline T name(unsigned mask, T value, HANDGRAD_EMULATOR_WHERE) {                          \
    const uint64_t* brought = handgrad::emulator::warp_meet(handgrad::emulator::Collective::reduce, __func__, mask,  \
                                                            handgrad::emulator::to_lane_value(value), {file, line}); \
    bool first = true;                                                                                               \
    T a{};                                                                                                           \
    for (unsigned other = 0; other < 32; ++other) {                                                                  \
      if (!(mask >> other & 1)) continue;                                                                            \
      const T b = handgrad::emulator::from_lane_value<T>(brought[other]);                                            \
      a = first ? b : static_cast<T>(combine);                                                                       \
      first = false;                                                                                                 \
    }                                                                                                                \
    return a;                                                                                                        \
  }
// A sum wraps around on the device.
HANDGRAD_WARP_REDUCTION(__reduce_add_sync, int, static_cast<unsigned>(a) + static_cast<unsigned>(b))
HANDGRAD_WARP_REDUCTION(__reduce_add_sync, unsigned, a + b)
HANDGRAD_WARP_REDUCTION(__reduce_min_sync, int, a < b ? a : b)
HANDGRAD_WARP_REDUCTION(__reduce_min_sync, unsigned, a < b ? a : b)
HANDGRAD_WARP_REDUCTION(__reduce_max_sync, int, a < b ? b : a)
HANDGRAD_WARP_REDUCTION(__reduce_max_sync, unsigned, a < b ? b : a)
HANDGRAD_WARP_REDUCTION(__reduce_and_sync, unsigned, a& b)
HANDGRAD_WARP_REDUCTION(__reduce_or_sync, unsigned, a | b)
HANDGRAD_WARP_REDUCTION(__reduce_xor_sync, unsigned, a ^ b)
#undef HANDGRAD_WARP_REDUCTION
#undef HANDGRAD_WARP_TYPES
