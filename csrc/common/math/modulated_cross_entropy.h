// The binary cross entropy of a logit x and a target t, discounted by their distance, with both derivatives:
//
//   F(x, t) = |t - sigmoid(x)|^beta ce(x, t)
//
// Derivation: docs/losses/quality_focal_loss.md. As in the sigmoid focal loss everything is written in a = |x| and in m,
// the part of the target on the other side of 0 than x, because F(x, t) = F(-x, 1 - t):
//
//   s = sigmoid(-a),   d = s - m,   ce = m a + log(1 + e^-a),   m = 1 - t for x >= 0, t for x < 0
//
// so nothing overflows, and a confident prediction that is right (m = 0) has an exact distance d = s.
#pragma once

#include <limits>

#include "math/scalar_math.h"

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
    const Point point(x, t);
    return powers(point.d()).p0 * point.cross_entropy(point.distance);
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const Point point(x, t);
    const T a = point.finite_distance(), ce = point.cross_entropy(a), d = point.d();
    const Powers power = powers(d);
    return {-point.signed_like_x(power.p1 * point.variance() * ce + power.p0 * d),
            point.signed_like_x(power.p1 * ce - power.p0 * a)};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const Point point(x, t);
    const T a = point.finite_distance(), ce = point.cross_entropy(a), v = point.variance();
    const Powers power = powers(point.d());
    // p1 d = beta p0, so terms with p1 and d need no quotient.
    return {power.p2(v, v * ce) + power.p1 * v * (point.larger - point.smaller) * ce + (2 * beta + 1) * power.p0 * v,
            power.p1 * v * a - power.p2(v, ce) - (beta + 1) * power.p0, power.p2(T(1), ce) - 2 * power.p1 * a};
  }

 private:
  // What value and derivatives share.
  struct Point {
    T distance, softness, larger, smaller, m;
    bool positive;

    HANDGRAD_MATH Point(T x, T t) {
      distance = absolute(x);
      positive = x >= 0;
      const T e = exp_decay(distance);
      softness = log1p_unit(e);
      larger = 1 / (1 + e);
      smaller = e * larger;
      m = positive ? 1 - t : t;
    }

    HANDGRAD_MATH T d() const { return smaller - m; }
    // The derivative of the sigmoid.
    HANDGRAD_MATH T variance() const { return larger * smaller; }
    // The distance costs nothing where m is exactly 0; at an infinite one 0 * inf would give NaN.
    HANDGRAD_MATH T cross_entropy(T a) const { return (m == 0 ? T(0) : m * a) + softness; }
    // For derivatives: at an infinite logit the variance is 0 and ce infinite; their product has the limit 0, which a
    // merely huge ce gives.
    HANDGRAD_MATH T finite_distance() const {
      constexpr T largest = std::numeric_limits<T>::max();
      return largest < distance ? largest : distance;
    }
    HANDGRAD_MATH T signed_like_x(T value) const { return positive ? value : -value; }
  };

  // |d|^beta, its first derivative with respect to d, and what makes the second of it.
  struct Powers {
    T p0, p1, bend;

    // The second derivative times u v; see the sigmoid focal loss for the order of the products.
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
