// A logit x and a target t, as losses of their binary cross entropy see them: by the distance a = |x|, and by m, the
// part of the target on the other side of 0 than x. Such a loss is the same for (x, t) and (-x, 1 - t), and in a and m
//
//   ce = m a + log(1 + e^-a),   m = 1 - t for x >= 0, t for x < 0
//
// so nothing overflows, and no two almost equal numbers are subtracted where a confident prediction is right (m = 0).
#pragma once

#include <limits>

#include "math/scalar_math.h"

namespace handgrad {

template <class T>
struct LogitPoint {
  // softness = log(1 + e^-a); larger and smaller are the sigmoids of a and of -a.
  T distance, softness, larger, smaller, m;
  bool positive;

  HANDGRAD_MATH LogitPoint(T x, T t) {
    distance = absolute(x);
    positive = x >= 0;
    const T e = exp_decay(distance);
    softness = log1p_unit(e);
    larger = 1 / (1 + e);
    smaller = e * larger;
    m = positive ? 1 - t : t;
  }

  HANDGRAD_MATH T sigmoid() const { return positive ? larger : smaller; }
  // The derivative of the sigmoid.
  HANDGRAD_MATH T variance() const { return larger * smaller; }
  // The distance costs nothing where m is exactly 0; at an infinite one 0 * inf would give NaN.
  HANDGRAD_MATH T cross_entropy(T a) const { return (m == 0 ? T(0) : m * a) + softness; }
  // For derivatives: at an infinite logit the variance is 0 and the cross entropy infinite; their product has the limit
  // 0, which a merely huge cross entropy gives.
  HANDGRAD_MATH T finite_distance() const {
    constexpr T largest = std::numeric_limits<T>::max();
    return largest < distance ? largest : distance;
  }
  // a grows with x on the positive side and against it on the other; m decreases with t on the one and grows on the
  // other.
  HANDGRAD_MATH T signed_like_x(T value) const { return positive ? value : -value; }
};

}  // namespace handgrad
