// The device's mathematical functions. CUDA has them in the global namespace, overloaded for float and double.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "language.h"

// <cmath> gives std:: the overloads and the global namespace, in part, the C functions of double: exp(1.0f) would be
// computed in double, which the device does not do.
using std::abs, std::acos, std::acosh, std::asin, std::asinh, std::atan, std::atan2, std::atanh, std::cbrt, std::ceil,
    std::copysign, std::cos, std::cosh, std::erf, std::erfc, std::exp, std::exp2, std::expm1, std::fabs, std::floor,
    std::fma, std::fmax, std::fmin, std::fmod, std::frexp, std::hypot, std::isfinite, std::isinf, std::isnan,
    std::ldexp, std::lgamma, std::log, std::log10, std::log1p, std::log2, std::lrint, std::lround, std::nearbyint,
    std::pow, std::remainder, std::rint, std::round, std::signbit, std::sin, std::sinh, std::sqrt, std::tan, std::tanh,
    std::tgamma, std::trunc;

// min and max of mixed types convert as CUDA's overloads do; of floating types they pass over NaN.
template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  if constexpr (std::is_floating_point_v<T>) {
    return x < y || y != y ? x : y;
  } else {
    return x < y ? x : y;
  }
}
template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  if constexpr (std::is_floating_point_v<T>) {
    return x > y || y != y ? x : y;
  } else {
    return x > y ? x : y;
  }
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.707106781186547524f); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.707106781186547524); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

// Directed rounding (__fadd_rz and the like) is not offered: better no answer than a wrong one.

// Fast forms. Here they are as exact as the others: the device's error of a few units in the last place is not
// imitated.
inline float __expf(float x) { return std::exp(x); }
inline float __exp10f(float x) { return std::pow(10.0f, x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __log10f(float x) { return std::log10(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __tanf(float x) { return std::tan(x); }
// One property is imitated: for 2^126 < |y| < 2^128 the device gives 0 (and NaN for infinite x).
inline float __fdividef(float x, float y) {
  const float size = std::fabs(y);
  return size > 0x1p126f && size <= 0x1.fffffep127f ? x * 0.0f : x / y;
}

inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __drcp_rn(double x) { return 1.0 / x; }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

// From float to integer the device saturates and turns NaN to 0, where C++ is undefined.
namespace handgrad::emulator {
template <class To, class From>
To saturating(From rounded) {
  constexpr From low = static_cast<From>(std::is_signed_v<To> ? To(To(1) << (sizeof(To) * 8 - 1)) : To(0));
  constexpr From above = static_cast<From>(std::is_signed_v<To> ? -low : From(2) * From(To(1) << (sizeof(To) * 8 - 1)));
  if (rounded != rounded) return 0;
  if (rounded < low) return static_cast<To>(low);
  if (rounded >= above)
    return std::is_signed_v<To> ? static_cast<To>(~(To(1) << (sizeof(To) * 8 - 1))) : static_cast<To>(~To(0));
  return static_cast<To>(rounded);
}
}  // namespace handgrad::emulator
inline int __float2int_rn(float x) { return handgrad::emulator::saturating<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return handgrad::emulator::saturating<int>(std::trunc(x)); }
inline int __float2int_rd(float x) { return handgrad::emulator::saturating<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return handgrad::emulator::saturating<int>(std::ceil(x)); }
inline unsigned __float2uint_rn(float x) { return handgrad::emulator::saturating<unsigned>(std::nearbyint(x)); }
inline unsigned __float2uint_rz(float x) { return handgrad::emulator::saturating<unsigned>(std::trunc(x)); }
inline long long __float2ll_rd(float x) { return handgrad::emulator::saturating<long long>(std::floor(x)); }
inline int __double2int_rn(double x) { return handgrad::emulator::saturating<int>(std::nearbyint(x)); }
inline int __double2int_rz(double x) { return handgrad::emulator::saturating<int>(std::trunc(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return x ? std::countr_zero(static_cast<unsigned>(x)) + 1 : 0; }
inline int __ffsll(long long x) { return x ? std::countr_zero(static_cast<unsigned long long>(x)) + 1 : 0; }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (unsigned bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1) << (31 - bit);
  return reversed;
}
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(uint64_t{x} * y >> 32); }
inline int __mulhi(int x, int y) { return static_cast<int>(int64_t{x} * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((uint64_t{high} << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
