// Runs of elements between memory (any dtype, any stride) and the type they are computed in.
#pragma once

#include <cstdint>
#include <cstring>

#include "abi/dtype.h"
#include "abi/macros.h"
#include "math/scalar_math.h"

namespace handgrad {

// The conversions of c10::Half and c10::BFloat16 are correct but hold branches, which keep a loop scalar. These are the
// same conversions without one; a device has instructions for them.

HANDGRAD_MATH float widen(float x) { return x; }
HANDGRAD_MATH double widen(double x) { return x; }
HANDGRAD_MATH float widen(BFloat16 x) { return detail::bits_as<float>(static_cast<uint32_t>(x.x) << 16); }
HANDGRAD_MATH float widen(Half x) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.x));
  return wide;
#else
  // Exponent and mantissa moved to float's places, then scaled by 2^112, which corrects the bias of normal and
  // subnormal numbers alike. What was infinite or NaN (exponent all ones) gets float's all-ones exponent instead.
  const uint32_t sign = static_cast<uint32_t>(x.x & 0x8000u) << 16, rest = static_cast<uint32_t>(x.x & 0x7fffu) << 13;
  const float scaled = detail::bits_as<float>(rest) * 0x1.0p112f;
  const uint32_t finite = detail::bits_as<uint32_t>(scaled), special = rest | 0x7f800000u;
  return detail::bits_as<float>(sign | (rest >= 0x0f800000u ? special : finite));
#endif
}

template <class T>
HANDGRAD_MATH T narrow(Compute<T> x) {
  return x;
}
template <>
HANDGRAD_MATH BFloat16 narrow<BFloat16>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint16_t narrowed;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrowed) : "f"(x));
  return BFloat16(narrowed, BFloat16::from_bits());
#else
  const uint32_t bits = detail::bits_as<uint32_t>(x);
  const uint32_t nearest_even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = 0x7fc0u | ((bits >> 16) & 0x8000u);
  return BFloat16(static_cast<uint16_t>(x != x ? quiet_nan : nearest_even), BFloat16::from_bits());
#endif
}
template <>
HANDGRAD_MATH Half narrow<Half>(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t narrowed;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrowed) : "f"(x));
  return Half(narrowed, Half::from_bits());
#else
  const uint32_t bits = detail::bits_as<uint32_t>(x), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
  // Normal results: correct the bias, round to nearest even in the 13 bits that go. A carry out of the mantissa moves
  // into the exponent, which is what rounding up to the next power of two means.
  const uint32_t normal = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
  // Subnormal results: adding 0.5 puts the last bit of a half where the last bit of the sum is, so that the addition
  // itself rounds to nearest even.
  const uint32_t small = detail::bits_as<uint32_t>(detail::bits_as<float>(size) + 0.5f) - 0x3f000000u;
  const uint32_t finite = size < 0x38800000u ? small : normal;
  const uint32_t large = size > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return Half(static_cast<uint16_t>(sign | (size >= 0x477ff000u ? large : finite)), Half::from_bits());
#endif
}

template <class T>
void load_run(const T* __restrict from, int64_t stride, int64_t count, Compute<T>* __restrict to) {
  if (stride == 1) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i]);
  } else if (stride == 0) {
    const Compute<T> value = widen(*from);
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) to[i] = value;
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i * stride]);
  }
}

template <class T>
void store_run(const Compute<T>* __restrict from, int64_t count, T* __restrict to, int64_t stride) {
  if (stride == 1) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) to[i] = narrow<T>(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * stride] = narrow<T>(from[i]);
  }
}

// The same where the type in memory, one of those that are computed in C, is known at run time; `offset` and `stride`
// in its elements.
template <class C>
void load_run(ScalarType dtype, const void* from, int64_t offset, int64_t stride, int64_t count, C* to) {
  dispatch_storage<C>(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    load_run(static_cast<const T*>(from) + offset, stride, count, to);
  });
}
template <class C>
void store_run(ScalarType dtype, const C* from, int64_t count, void* to, int64_t offset, int64_t stride) {
  dispatch_storage<C>(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    store_run(from, count, static_cast<T*>(to) + offset, stride);
  });
}

}  // namespace handgrad
