// exp(x) - 1 that a loop can be vectorised over, with all of its digits near 0.
#pragma once

#include "math/scalar_math.h"

namespace handgrad {

#if defined(__CUDA_ARCH__)

template <class T>
HANDGRAD_MATH T expm1_decay(T x) {
  return ::expm1(-x);
}

#else

// e^-x - 1 for x >= 0 only. As exp_decay, with e^r - 1 = r (1 + r / 2 + …) in place of e^r: 2^n (e^r - 1) + (2^n - 1).
template <class T>
HANDGRAD_MATH T expm1_decay(T x) {
  const auto [r, scale] = detail::Decay<T>(x);
  return scale * (r * detail::polynomial<typename detail::FloatFormat<T>::Exp, 1>(r)) + (scale - 1);
}

#endif

}  // namespace handgrad
