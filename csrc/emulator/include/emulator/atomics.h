// Atomic operations. They are atomic between the operating-system threads over which blocks may be spread.
#pragma once

#include <cstring>

#include "../cuda_bf16.h"
#include "../cuda_fp16.h"
#include "engine_calls.h"

namespace handgrad::emulator {

template <size_t bytes>
struct BitsOf;
template <>
struct BitsOf<2> {
  using type = uint16_t;
};
template <>
struct BitsOf<4> {
  using type = uint32_t;
};
template <>
struct BitsOf<8> {
  using type = uint64_t;
};

// Replaces *address by change(*address) and returns what was there.
template <class T, class Change>
HANDGRAD_EMULATOR_UNSEEN T atomic_change(T* address, Change change) {
  using Bits = typename BitsOf<sizeof(T)>::type;
  check_access(address, sizeof(T), sizeof(T));
  atomic_access(address, sizeof(T), true);
  Bits* cell = reinterpret_cast<Bits*>(address);
  Bits seen = __atomic_load_n(cell, __ATOMIC_RELAXED), wanted;
  T before;
  do {
    std::memcpy(&before, &seen, sizeof(T));
    const T after = change(before);
    std::memcpy(&wanted, &after, sizeof(T));
  } while (!__atomic_compare_exchange_n(cell, &seen, wanted, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
  return before;
}

template <class T>
T atomic_compare_and_swap(T* address, T expected, T value) {
  return atomic_change(address,
                       [=](T before) { return std::memcmp(&before, &expected, sizeof(T)) == 0 ? value : before; });
}

}  // namespace handgrad::emulator

#define HANDGRAD_ATOMIC(name, T, after)                                                                         \
  inline T name(T* address, T value) {                                                                          \
    return handgrad::emulator::atomic_change(address,                                                           \
                                             [=]([[maybe_unused]] T before) { return static_cast<T>(after); }); \
  }
#define HANDGRAD_ATOMIC_INTEGER(T, Unsigned)                                                  \
  /* Sums wrap around on the device. */                                                       \
  HANDGRAD_ATOMIC(atomicAdd, T, static_cast<Unsigned>(before) + static_cast<Unsigned>(value)) \
  HANDGRAD_ATOMIC(atomicSub, T, static_cast<Unsigned>(before) - static_cast<Unsigned>(value)) \
  HANDGRAD_ATOMIC(atomicMin, T, before < value ? before : value)                              \
  HANDGRAD_ATOMIC(atomicMax, T, before < value ? value : before)                              \
  HANDGRAD_ATOMIC(atomicAnd, T, before& value)                                                \
  HANDGRAD_ATOMIC(atomicOr, T, before | value)                                                \
  HANDGRAD_ATOMIC(atomicXor, T, before ^ value)                                               \
  HANDGRAD_ATOMIC(atomicExch, T, value)                                                       \
  inline T atomicCAS(T* address, T expected, T value) {                                       \
    return handgrad::emulator::atomic_compare_and_swap(address, expected, value);             \
  }
HANDGRAD_ATOMIC_INTEGER(int, unsigned)
HANDGRAD_ATOMIC_INTEGER(unsigned, unsigned)
HANDGRAD_ATOMIC_INTEGER(long long, unsigned long long)
HANDGRAD_ATOMIC_INTEGER(unsigned long long, unsigned long long)
#undef HANDGRAD_ATOMIC_INTEGER

HANDGRAD_ATOMIC(atomicAdd, float, before + value)
HANDGRAD_ATOMIC(atomicAdd, double, before + value)
HANDGRAD_ATOMIC(atomicAdd, __half, __half2float(before) + __half2float(value))
HANDGRAD_ATOMIC(atomicAdd, __nv_bfloat16, __bfloat162float(before) + __bfloat162float(value))
HANDGRAD_ATOMIC(atomicExch, float, value)
HANDGRAD_ATOMIC(atomicInc, unsigned, before >= value ? 0u : before + 1)
HANDGRAD_ATOMIC(atomicDec, unsigned, before == 0 || before > value ? value : before - 1)
#undef HANDGRAD_ATOMIC
inline unsigned short atomicCAS(unsigned short* address, unsigned short expected, unsigned short value) {
  return handgrad::emulator::atomic_compare_and_swap(address, expected, value);
}
