// exp, log, log1p and pow that a loop can be vectorised over, on every compiler, with no vector-math library.
//
// On the CPU they are plain arithmetic on one element: no branch, no table, no call. The loop around them is vectorised
// by the compiler at the width of whatever instruction set it builds for. Each is accurate to 1 to 3 units in the last
// place, keeps NaN, and treats infinities and zeros as <cmath> does (tests/test_common.py). pow differs: of doubles it
// is as accurate as its logarithm times its exponent, and 1 to the power of an infinity or of NaN is NaN. On the device
// CUDA's own functions are used: they are as accurate, and shorter there.
//
// The polynomials are Chebyshev fits of the relative error, made by tools/fit_polynomials.py, which prints these
// numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "abi/macros.h"

namespace handgrad {

namespace detail {

template <class To, class From>
HANDGRAD_MATH To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// c[0] + c[1] x + c[2] x^2 + … with c = Terms::values, by Horner's rule. A recursion, not a loop, so that it is
// unrolled before the vectoriser looks, which only takes innermost loops. The terms come as a type because device code
// can use the value of a host constant but not its address.
template <class Terms, int At = 0, class T>
HANDGRAD_MATH T polynomial(T x) {
  constexpr T term = Terms::values[At];
  if constexpr (At + 1 == sizeof(Terms::values) / sizeof(T)) {
    return term;
  } else {
    return term + x * polynomial<Terms, At + 1>(x);
  }
}

template <class T>
struct FloatFormat;

template <>
struct FloatFormat<float> {
  using Bits = int32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr Bits bias = 127;
  // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
  static constexpr float round_magic = 12582912.0f;
  static constexpr float log2_e = 1.44269504f;
  // ln 2 in two parts; the first has few bits, so that its product with a small integer is exact.
  static constexpr float ln2_high = 0.693145752f, ln2_low = 1.42860677e-6f;
  // Beyond these exp is 0 or infinite; within, the exponent arithmetic cannot overflow.
  static constexpr float exp_low = -105.0f, exp_high = 89.0f;
  // Here -x / ln 2 is nearest to -127, whose exponent bits are 0.
  static constexpr float decay_limit = 88.0f;
  struct Exp {
    static constexpr float values[] = {1.0f,           1.000000038f,    0.5000000047f, 0.1666641541f,
                                       0.04166635277f, 0.008375134775f, 0.00139411189f};
  };
  struct Log1p {
    static constexpr float values[] = {2.000000008f, 0.6666632164f, 0.4002459523f, 0.2796515775f, 0.2815777836f};
  };
};

template <>
struct FloatFormat<double> {
  using Bits = int64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr Bits bias = 1023;
  static constexpr double round_magic = 6755399441055744.0;
  static constexpr double log2_e = 1.4426950408889634074;
  static constexpr double ln2_high = 0.69314718036912381649, ln2_low = 1.9082149292705877e-10;
  static constexpr double exp_low = -746.0, exp_high = 710.0;
  static constexpr double decay_limit = 709.0;
  struct Exp {
    static constexpr double values[] = {1.0,
                                        0.9999999999999999985,
                                        0.4999999999999999999,
                                        0.1666666666666670245,
                                        0.04166666666666669222,
                                        0.008333333333309508019,
                                        0.001388888888887187461,
                                        0.0001984126990925790292,
                                        0.00002480158735013993137,
                                        2.755722492065213856e-6,
                                        2.75572518772250828e-7,
                                        2.511488209588034023e-8,
                                        2.092158893897149238e-9};
  };
  struct Log1p {
    static constexpr double values[] = {2.000000000000000002,   0.6666666666666614959, 0.4000000000018574747,
                                        0.2857142854545411453,  0.2222222408074767317, 0.1818174083250480451,
                                        0.1538661404230400776,  0.1330037403267462434, 0.1211016872806921765,
                                        0.08324506511860820576, 0.1704416356278139813};
  };
};

// What a power of floats needs, in double: relative errors of 4e-11 and 9e-12 (the latter counts up to a hundred times,
// which is how large an exponent times a logarithm may be).
struct PowerOfFloat {
  static constexpr double ln2 = 0.69314718055994530942;
  // Beyond these the result is 0 or infinite in float.
  static constexpr double low = -105.0, high = 89.0;
  struct Exp {
    static constexpr double values[] = {0.99999999995953,  0.99999999999551,   0.50000001077939,   0.1666666678638,
                                        0.041666218139711, 0.0083332835187681, 0.0013948590286863, 0.00019907582591325};
  };
  // 2 atanh(s) / s in powers of s^2, for s^2 <= 0.0295
  struct Log {
    static constexpr double values[] = {2.0000000000084, 0.66666665241712, 0.40000385850874, 0.28534976254587,
                                        0.23617811358976};
  };
};

// The n for which x = 2^n m with m in [sqrt(1/2), sqrt(2)); x is a normal number, and for others n means nothing. In
// unsigned numbers, which may wrap, and without a shift of negative ones, which AVX2 lacks in 64 bits.
template <class T>
HANDGRAD_MATH typename FloatFormat<T>::Bits exponent_around_one(T x) {
  using F = FloatFormat<T>;
  using Bits = typename F::Bits;
  using Unsigned = std::make_unsigned_t<Bits>;
  constexpr T root_half = static_cast<T>(0.70710678118654752440);
  constexpr Unsigned lift = static_cast<Unsigned>(F::bias + 1) << F::mantissa_bits;
  const Unsigned above = bits_as<Unsigned>(x) - bits_as<Unsigned>(root_half) + lift;
  return static_cast<Bits>(above >> F::mantissa_bits) - (F::bias + 1);
}

// x / 2^n, for a result that is a normal number.
template <class T>
HANDGRAD_MATH T scaled_down(T x, typename FloatFormat<T>::Bits n) {
  using Unsigned = std::make_unsigned_t<typename FloatFormat<T>::Bits>;
  return bits_as<T>(bits_as<Unsigned>(x) - (static_cast<Unsigned>(n) << FloatFormat<T>::mantissa_bits));
}

// A small integer as a floating-point number, by way of the magic number: AVX2 has no conversion from 64 bits.
template <class T>
HANDGRAD_MATH T as_number(typename FloatFormat<T>::Bits n) {
  using F = FloatFormat<T>;
  return bits_as<T>(n + bits_as<typename F::Bits>(F::round_magic)) - F::round_magic;
}

// 2 atanh(s) / s in powers of s^2. For the logarithm s^2 <= 0.0295, so these terms reach past double precision.
template <class T>
struct AtanhSeries {
  static constexpr T values[] = {T(2),      T(2) / 3,  T(2) / 5,  T(2) / 7,  T(2) / 9, T(2) / 11,
                                 T(2) / 13, T(2) / 15, T(2) / 17, T(2) / 19, T(2) / 21};
};

}  // namespace detail

#if defined(__CUDA_ARCH__)

template <class T>
HANDGRAD_MATH T exp(T x) {
  return ::exp(x);
}
template <class T>
HANDGRAD_MATH T exp_decay(T x) {
  return ::exp(-x);
}
template <class T>
HANDGRAD_MATH T log1p_unit(T x) {
  return ::log1p(x);
}
template <class T>
HANDGRAD_MATH T log(T x) {
  return ::log(x);
}
// The one function here that is not inlined: it is longer than the formulas that call it, several times.
template <class T>
__device__ __noinline__ T pow_out_of_line(T base, T exponent) {
  return ::pow(base, exponent);
}
template <class T>
HANDGRAD_MATH T pow(T base, T exponent) {
  return pow_out_of_line(base, exponent);
}

#else

// e^x = 2^n e^r with n the nearest integer to x / ln 2 and |r| <= ln 2 / 2.
template <class T>
HANDGRAD_MATH T exp(T x) {
  using F = detail::FloatFormat<T>;
  using Bits = typename F::Bits;
  // Written so that NaN passes both selections.
  x = x < F::exp_low ? F::exp_low : x;
  x = x > F::exp_high ? F::exp_high : x;
  const T shifted = x * F::log2_e + F::round_magic;
  const T n = shifted - F::round_magic;
  const T r = (x - n * F::ln2_high) - n * F::ln2_low;
  const T mantissa = detail::polynomial<typename F::Exp>(r);
  // 2^n in two factors: n reaches past the exponent range at both ends, where the result is subnormal or infinite.
  const Bits whole = detail::bits_as<Bits>(shifted) - detail::bits_as<Bits>(F::round_magic);
  // (whole >> 1, written without a shift of negative numbers, which AVX2 lacks in 64 bits.)
  const Bits half = static_cast<Bits>(static_cast<std::make_unsigned_t<Bits> >(whole + 4096) >> 1) - 2048;
  const T first = detail::bits_as<T>((half + F::bias) << F::mantissa_bits);
  const T second = detail::bits_as<T>((whole - half + F::bias) << F::mantissa_bits);
  return mantissa * first * second;
}

namespace detail {

// e^-x = scale e^r for x >= 0 only, with scale a power of 2 and |r| <= ln 2 / 2; scale is 0 from about the smallest
// normal number on.
template <class T>
struct Decay {
  T r, scale;

  HANDGRAD_MATH explicit Decay(T x) {
    using F = FloatFormat<T>;
    using Bits = typename F::Bits;
    // Written so that NaN passes, and as the processor's own minimum is defined.
    x = F::decay_limit < x ? F::decay_limit : x;
    // The bias of the exponent is added while rounding; the shift then drops what else the magic number has set. At the
    // limit all bits are dropped: 2^n becomes 0 without a comparison.
    constexpr T magic = F::round_magic + static_cast<T>(F::bias);
    const T shifted = magic - x * F::log2_e;
    const T n = shifted - magic;
    r = -(x + n * F::ln2_high) - n * F::ln2_low;
    scale = bits_as<T>(bits_as<Bits>(shifted) << F::mantissa_bits);
  }
};

}  // namespace detail

// e^-x for x >= 0 only, 0 from about the smallest normal number on: half of the work of exp.
template <class T>
HANDGRAD_MATH T exp_decay(T x) {
  const detail::Decay<T> decay(x);
  return detail::polynomial<typename detail::FloatFormat<T>::Exp>(decay.r) * decay.scale;
}

// log(1 + x) = 2 atanh(s) with s = x / (2 + x), for x in [0, 1] only: what losses need of log1p. (Processors divide
// beside their other arithmetic; without the division the polynomial would have twice the terms.)
template <class T>
HANDGRAD_MATH T log1p_unit(T x) {
  const T s = x / (2 + x);
  return s * detail::polynomial<typename detail::FloatFormat<T>::Log1p>(s * s);
}

// log x = n ln 2 + log m with m in [sqrt(1/2), sqrt(2)), and log m = 2 atanh((m - 1) / (m + 1)).
template <class T>
HANDGRAD_MATH T log(T x) {
  using F = detail::FloatFormat<T>;
  using Bits = typename F::Bits;
  constexpr T smallest = std::numeric_limits<T>::min();
  constexpr T infinity = std::numeric_limits<T>::infinity();
  // Subnormal numbers are first scaled into the normal range.
  const bool subnormal = x < smallest;
  constexpr T lift = static_cast<T>(Bits{1} << F::mantissa_bits);
  const T normal = subnormal ? x * lift : x;
  const Bits n = detail::exponent_around_one(normal);
  const T m = detail::scaled_down(normal, n);
  const T s = (m - 1) / (m + 1), s2 = s * s;
  const T log_m = s * detail::polynomial<detail::AtanhSeries<T> >(s2);
  const T count = detail::as_number<T>(n) - (subnormal ? static_cast<T>(F::mantissa_bits) : T(0));
  const T value = count * F::ln2_high + (count * F::ln2_low + log_m);
  const T at_zero = x == 0 ? -infinity : value;
  const T at_infinity = x == infinity ? infinity : at_zero;
  return x >= 0 ? at_infinity : std::numeric_limits<T>::quiet_NaN();
}

// base^exponent for base >= 0 (NaN below, as for a fractional exponent).
template <class T>
HANDGRAD_MATH T pow(T base, T exponent) {
  const T power = exp(exponent * log(base));
  return exponent == 0 ? T(1) : power;
}

// A float goes through double, where the error of the logarithm, multiplied by the exponent, still vanishes when
// rounded back. These are exp and log above with what a float needs of them: fewer terms, no subnormal numbers (those
// of float are normal in double), and 2^n in one factor.
template <>
HANDGRAD_MATH float pow<float>(float base, float exponent) {
  using F = detail::FloatFormat<double>;
  using Bits = F::Bits;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double x = static_cast<double>(base);
  const Bits n = detail::exponent_around_one(x);
  const double m = detail::scaled_down(x, n);
  const double s = (m - 1) / (m + 1);
  const double finite = detail::as_number<double>(n) * detail::PowerOfFloat::ln2 +
                        s * detail::polynomial<detail::PowerOfFloat::Log>(s * s);
  const double at_zero = x == 0 ? -infinity : finite;
  const double log_base = x == infinity ? infinity : at_zero;

  double y = static_cast<double>(exponent) * log_base;
  y = y < detail::PowerOfFloat::low ? detail::PowerOfFloat::low : y;
  y = y > detail::PowerOfFloat::high ? detail::PowerOfFloat::high : y;
  const double shifted = y * F::log2_e + F::round_magic;
  const double whole = shifted - F::round_magic;
  const double r = y - whole * detail::PowerOfFloat::ln2;
  const Bits power_of_two = detail::bits_as<Bits>(shifted) - detail::bits_as<Bits>(F::round_magic);
  const double scale = detail::bits_as<double>((power_of_two + F::bias) << F::mantissa_bits);
  const double power = detail::polynomial<detail::PowerOfFloat::Exp>(r) * scale;
  const double of_any = x >= 0 ? power : std::numeric_limits<double>::quiet_NaN();
  return static_cast<float>(exponent == 0 ? 1.0 : of_any);
}

#endif

// a * b, rounded by itself: where it is added to something, the compiler would otherwise be free to round only the sum
// (a fused multiplication and addition), and a decision at a threshold could fall differently from one processor to the
// next.
template <class T>
HANDGRAD_MATH T rounded_product(T a, T b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == sizeof(float)) {
    return __fmul_rn(a, b);
  } else {
    return __dmul_rn(a, b);
  }
#elif defined(__clang__)
#pragma clang fp contract(off)
  return a * b;
#elif defined(__GNUC__) && __GNUC__ >= 12
  return __builtin_assoc_barrier(a * b);
#else
  volatile T product = a * b;
  return product;
#endif
}

HANDGRAD_MATH float absolute(float x) { return fabsf(x); }
HANDGRAD_MATH double absolute(double x) { return fabs(x); }
HANDGRAD_MATH float square_root(float x) { return sqrtf(x); }
HANDGRAD_MATH double square_root(double x) { return ::sqrt(x); }
// 1 / sqrt(x). A device has an instruction for it, right to 2 units in the last place.
#if defined(__CUDA_ARCH__)
HANDGRAD_MATH float inverse_square_root(float x) { return ::rsqrtf(x); }
HANDGRAD_MATH double inverse_square_root(double x) { return ::rsqrt(x); }
#else
HANDGRAD_MATH float inverse_square_root(float x) { return 1 / sqrtf(x); }
HANDGRAD_MATH double inverse_square_root(double x) { return 1 / ::sqrt(x); }
#endif

HANDGRAD_MATH float rounded_down(float x) { return floorf(x); }
HANDGRAD_MATH double rounded_down(double x) { return ::floor(x); }
HANDGRAD_MATH float rounded_to_even(float x) { return rintf(x); }
HANDGRAD_MATH double rounded_to_even(double x) { return ::rint(x); }

}  // namespace handgrad
