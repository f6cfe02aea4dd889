// The binary cross entropy of a logit x and a target t, discounted by their distance, with both derivatives:
//
//   F(x, t) = |t - sigmoid(x)|^beta ce(x, t)
//
// The documents of the losses made of it have the derivation. In the coordinates of logit_point.h, s = sigmoid(-a):
//
//   |t - sigmoid(x)| = |d|,   d = s - m
#pragma once

#include "math/logit_point.h"
#include "math/powers.h"

namespace handgrad {

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
    const Powers<T, BetaIsTwo> power = powers(d);
    return {-point.signed_like_x(power.p1 * point.variance() * ce + power.p0 * d),
            point.signed_like_x(power.p1 * ce - power.p0 * a)};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const LogitPoint<T> point(x, t);
    const T a = point.finite_distance(), ce = point.cross_entropy(a), v = point.variance();
    const Powers<T, BetaIsTwo> power = powers(point.smaller - point.m);
    // p1 d = beta p0, so terms with p1 and d need no quotient.
    return {power.p2(v, v * ce) + power.p1 * v * (point.larger - point.smaller) * ce + (2 * beta + 1) * power.p0 * v,
            power.p1 * v * a - power.p2(v, ce) - (beta + 1) * power.p0, power.p2(T(1), ce) - 2 * power.p1 * a};
  }

 private:
  HANDGRAD_MATH Powers<T, BetaIsTwo> powers(T d) const { return Powers<T, BetaIsTwo>(absolute(d), d, beta); }
};

}  // namespace handgrad
