// log(1 + x) that a loop can be vectorised over, with all of its digits near 0.
#pragma once

#include "math/scalar_math.h"

namespace handgrad {

#if defined(__CUDA_ARCH__)

template <class T>
HANDGRAD_MATH T log1p_positive(T x) {
  return ::log1p(x);
}

#else

// log(1 + x) for any x >= 0: that of the sum as it is rounded, 2^n m, with what the rounding has lost of x added to m.
// The terms are those of log1p_unit, which reach further than is needed here.
template <class T>
HANDGRAD_MATH T log1p_positive(T x) {
  using F = detail::FloatFormat<T>;
  using Bits = typename F::Bits;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  // From here on 1 is lost, and all that is lost.
  constexpr T large = 4 * static_cast<T>(Bits{1} << F::mantissa_bits);
  const T sum = 1 + x, lost = x - (sum - 1);
  const Bits n = detail::exponent_around_one(sum);
  const T scaled = lost * detail::bits_as<T>((F::bias - n) << F::mantissa_bits), kept = sum > large ? T(0) : scaled;
  const T above = (detail::scaled_down(sum, n) - 1) + kept;
  const T s = above / (2 + above), count = detail::as_number<T>(n);
  const T value = count * F::ln2_high + (count * F::ln2_low + s * detail::polynomial<typename F::Log1p>(s * s));
  return x == infinity ? x : value;
}

#endif

}  // namespace handgrad
