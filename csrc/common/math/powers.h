// A power of a distance, by which a loss is discounted, with both derivatives.
#pragma once

#include <limits>

#include "math/scalar_math.h"

namespace handgrad {

// size^exponent, where size is |base|, and its derivatives with respect to base. An exponent of 2 is what nearly
// everybody uses: its powers are products, the others need a logarithm and an exponential.
template <class T, bool ExponentIsTwo>
struct Powers {
  // The power, its first derivative, and what makes the second of it.
  T p0, p1, bend;

  HANDGRAD_MATH Powers(T size, T base, T exponent) {
    if constexpr (ExponentIsTwo) {
      p0 = base * base;
      p1 = 2 * base;
      bend = T(0);
    } else {
      // Where base underflows the derivatives are 0: in a loss every term with p1 or p2 has a factor that goes to 0
      // faster than they grow, and at 0 itself is a kink or a minimum.
      const T inverse = size < std::numeric_limits<T>::min() ? T(0) : 1 / base;
      p0 = pow(size, exponent);
      p1 = exponent * p0 * inverse;
      bend = (exponent - 1) * inverse;
    }
  }

  // The second derivative times u v, where v goes to 0 as base does or is the smaller one. Not by itself: below an
  // exponent of 2 it overflows long before the product does.
  HANDGRAD_MATH T p2(T u, T v) const {
    if constexpr (ExponentIsTwo) {
      return 2 * u * v;
    } else {
      return p1 * u * (bend * v);
    }
  }
};

}  // namespace handgrad
