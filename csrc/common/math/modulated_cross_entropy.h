// The binary cross entropy of a logit x and a target t, discounted by their distance, with both derivatives:
//
//   F(x, t) = |t - sigmoid(x)|^beta ce(x, t)
//
// The documents of the losses made of it have the derivation. In the coordinates of logit_point.h, s = sigmoid(-a):
//
//   |t - sigmoid(x)| = |d|,   d = s - m
#pragma once

#include <limits>

#include "math/logit_point.h"

namespace handgrad {

// beta = 2 is what nearly everybody uses; its powers are products, the others need a logarithm and an exponential.
template <class T, bool BetaIsTwo>
struct ModulatedCrossEntropy {
  T beta;

  struct Slope {
    T inputs, targets;
  };
  struct Curvature {
    T inputs_inputs, inputs_targets, targets_targets;
  };

  HANDGRAD_MATH T value(T x, T t) const {
    const LogitPoint<T> point(x, t);
    return powers(point.smaller - point.m).p0 * point.cross_entropy(point.distance);
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const LogitPoint<T> point(x, t);
    const T a = point.finite_distance(), ce = point.cross_entropy(a), d = point.smaller - point.m;
    const Powers power = powers(d);
    return {-point.signed_like_x(power.p1 * point.variance() * ce + power.p0 * d),
            point.signed_like_x(power.p1 * ce - power.p0 * a)};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const LogitPoint<T> point(x, t);
    const T a = point.finite_distance(), ce = point.cross_entropy(a), v = point.variance();
    const Powers power = powers(point.smaller - point.m);
    // p1 d = beta p0, so terms with p1 and d need no quotient.
    return {power.p2(v, v * ce) + power.p1 * v * (point.larger - point.smaller) * ce + (2 * beta + 1) * power.p0 * v,
            power.p1 * v * a - power.p2(v, ce) - (beta + 1) * power.p0, power.p2(T(1), ce) - 2 * power.p1 * a};
  }

 private:
  // |d|^beta, its first derivative with respect to d, and what makes the second of it.
  struct Powers {
    T p0, p1, bend;

    // The second derivative times u v, where v goes to 0 as d does or is the smaller one. Not by itself: below a beta of
    // 2 it overflows long before the product does.
    HANDGRAD_MATH T p2(T u, T v) const {
      if constexpr (BetaIsTwo) {
        return 2 * u * v;
      } else {
        return p1 * u * (bend * v);
      }
    }
  };

  HANDGRAD_MATH Powers powers(T d) const {
    if constexpr (BetaIsTwo) {
      return {d * d, 2 * d, T(0)};
    } else {
      // At d = 0, a kink for beta <= 1, the derivatives are taken as 0.
      const T size = absolute(d), p0 = pow(size, beta);
      const T inverse = size < std::numeric_limits<T>::min() ? T(0) : 1 / d;
      return {p0, beta * p0 * inverse, (beta - 1) * inverse};
    }
  }
};

}  // namespace handgrad
