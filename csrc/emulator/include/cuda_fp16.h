// CUDA's 16-bit float, computed in float and rounded, as the device's conversions do.
#pragma once
#if defined(__CUDACC__)
#include_next <cuda_fp16.h>
#else

#include <type_traits>

#include "emulator/half_bits.h"
#include "vector_types.h"

struct __half_raw {
  unsigned short x;
};

struct __half {
  unsigned short bits;

  __half() = default;  // trivial, so that shared arrays of it are as uninitialised as the device's
  __half(float value) : bits(handgrad::emulator::half_from_float(value)) {}
  __half(double value) : __half(handgrad::emulator::round_to_odd(value)) {}
  template <class T>
    requires std::is_integral_v<T>
  explicit __half(T value) : __half(static_cast<double>(value)) {}
  __half(__half_raw raw) : bits(raw.x) {}
  operator __half_raw() const { return {bits}; }
  operator float() const { return handgrad::emulator::float_from_half(bits); }

  __half& operator+=(__half other) { return *this = __half(float(*this) + float(other)); }
  __half& operator-=(__half other) { return *this = __half(float(*this) - float(other)); }
  __half& operator*=(__half other) { return *this = __half(float(*this) * float(other)); }
  __half& operator/=(__half other) { return *this = __half(float(*this) / float(other)); }
};

// Two 16-bit operands give a 16-bit result; the sum, difference, product or quotient of two is rounded once, since
// float holds it with enough bits to spare.
inline __half operator+(__half a, __half b) { return a += b; }
inline __half operator-(__half a, __half b) { return a -= b; }
inline __half operator*(__half a, __half b) { return a *= b; }
inline __half operator/(__half a, __half b) { return a /= b; }
inline __half operator-(__half a) {
  a.bits ^= 0x8000u;
  return a;
}
inline bool operator==(__half a, __half b) { return float(a) == float(b); }
inline bool operator!=(__half a, __half b) { return float(a) != float(b); }
inline bool operator<(__half a, __half b) { return float(a) < float(b); }
inline bool operator>(__half a, __half b) { return float(a) > float(b); }
inline bool operator<=(__half a, __half b) { return float(a) <= float(b); }
inline bool operator>=(__half a, __half b) { return float(a) >= float(b); }

struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half value) { return value; }
inline __half __float2half(float value) { return value; }
inline __half __float2half_rn(float value) { return value; }
inline __half __double2half(double value) { return value; }
inline __half __hadd(__half a, __half b) { return a + b; }
inline __half __hsub(__half a, __half b) { return a - b; }
inline __half __hmul(__half a, __half b) { return a * b; }
inline __half __hdiv(__half a, __half b) { return a / b; }
inline __half __hneg(__half a) { return -a; }
inline __half __habs(__half a) {
  a.bits &= 0x7fffu;
  return a;
}
// Rounded once: the product is exact in double, and so, but for vanishing tails, is the sum.
inline __half __hfma(__half a, __half b, __half c) { return double(float(a)) * double(float(b)) + double(float(c)); }
inline bool __hisnan(__half a) { return float(a) != float(a); }
inline bool __heq(__half a, __half b) { return a == b; }
inline bool __hlt(__half a, __half b) { return a < b; }
inline bool __hgt(__half a, __half b) { return a > b; }
inline __half __hmax(__half a, __half b) { return __hisnan(a) || b > a ? b : a; }
inline __half __hmin(__half a, __half b) { return __hisnan(a) || b < a ? b : a; }

using half = __half;
using half2 = __half2;
using __nv_half = __half;

inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __float2half2_rn(float value) { return {value, value}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float22half2_rn(float2 value) { return {value.x, value.y}; }
inline float2 __half22float2(__half2 value) { return {value.x, value.y}; }
inline float __low2float(__half2 value) { return value.x; }
inline float __high2float(__half2 value) { return value.y; }
inline __half __low2half(__half2 value) { return value.x; }
inline __half __high2half(__half2 value) { return value.y; }
inline __half2 __hadd2(__half2 a, __half2 b) { return {a.x + b.x, a.y + b.y}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {a.x * b.x, a.y * b.y}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }

#endif
