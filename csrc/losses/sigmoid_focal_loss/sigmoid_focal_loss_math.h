// Sigmoid focal loss of one element, with both derivatives. Derivation: docs/losses/sigmoid_focal_loss.md.
//
//   F(x, t) = w q^gamma ce     w  = alpha t + (1 - alpha)(1 - t)        (1 without class weights)
//                              q  = the probability given to the wrong class
//                              ce = the cross entropy
//
// Everything is written in the distance a = |x| and in m, the part of the target on the other side of 0 than x:
//
//   q = P m + (1 - P)(1 - m),   ce = m a + log(1 + e^-a),   P = sigmoid(a) = 1 / (1 + e^-a),   m = 1 - t or t
//
// so nothing overflows, no two almost equal numbers are subtracted, and the side matters only for the sign of what is
// differentiated once with respect to x or t.
#pragma once

#include <limits>
#include <tuple>

#include "math/scalar_math.h"

namespace handgrad {

// gamma = 2 is what nearly everybody uses; its powers are products, the others need a logarithm and an exponential.
template <class T, bool GammaIsTwo>
struct SigmoidFocalLoss {
  // w(t) = weight_at_zero + weight_slope t
  T weight_at_zero, weight_slope, gamma;

  SigmoidFocalLoss(double alpha, double gamma_value)
      : weight_at_zero(static_cast<T>(alpha >= 0 ? 1 - alpha : 1)),
        weight_slope(static_cast<T>(alpha >= 0 ? 2 * alpha - 1 : 0)),
        gamma(static_cast<T>(gamma_value)) {}

  bool serves() const { return !GammaIsTwo || gamma == 2; }

  struct Slope {
    T inputs, targets;
  };
  struct Curvature {
    T inputs_inputs, inputs_targets, targets_targets;
  };

  HANDGRAD_MATH T value(T x, T t) const {
    const Point at(x, t);
    return weight(t) * powers(at.q()).p0 * at.cross_entropy(at.distance);
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const Point at(x, t);
    const Powers power = powers(at.q());
    const T w = weight(t), a = at.finite_distance(), ce = at.cross_entropy(a);
    return {at.signed_like_x(w * (power.p1 * at.q_a() * ce + power.p0 * at.ce_a())),
            weight_slope * power.p0 * ce - at.signed_like_x(w * (power.p1 * at.q_m() * ce + power.p0 * a))};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const Point at(x, t);
    const Powers power = powers(at.q());
    const T w = weight(t), a = at.finite_distance(), ce = at.cross_entropy(a);
    const T q_a = at.q_a(), q_m = at.q_m(), ce_a = at.ce_a(), variance = at.larger * at.smaller;
    const T q_aa = -variance * q_m * (2 * at.m - 1), q_am = 2 * variance;
    // p1 may be large where what it is multiplied by is small: it comes first, or their product would underflow.
    return {w * (power.p2(q_a, q_a) * ce + power.p1 * q_aa * ce + power.p1 * q_a * (2 * ce_a) + power.p0 * variance),
            at.signed_like_x(weight_slope * (power.p1 * q_a * ce + power.p0 * ce_a)) -
                w * (power.p2(q_a, q_m * ce) + power.p1 * (q_am * ce + q_a * a + q_m * ce_a) + power.p0),
            w * (power.p2(q_m, q_m * ce) + 2 * power.p1 * q_m * a) -
                at.signed_like_x(2 * weight_slope * (power.p1 * q_m * ce + power.p0 * a))};
  }

 private:
  // What value and derivatives share. Subscripts are derivatives: q_a is that of q with respect to a.
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

    HANDGRAD_MATH T q() const { return larger * m + smaller * (1 - m); }
    HANDGRAD_MATH T q_a() const { return larger * smaller * (2 * m - 1); }
    HANDGRAD_MATH T q_m() const { return larger - smaller; }
    // The distance costs nothing where m is exactly 0; at an infinite one 0 * inf would give NaN.
    HANDGRAD_MATH T cross_entropy(T a) const { return (m == 0 ? T(0) : m * a) + softness; }
    HANDGRAD_MATH T ce_a() const { return larger * m - smaller * (1 - m); }
    // For derivatives. At an infinite logit q_a is 0 and ce infinite; their product has the limit 0, which a merely
    // huge ce gives.
    HANDGRAD_MATH T finite_distance() const {
      constexpr T largest = std::numeric_limits<T>::max();
      return largest < distance ? largest : distance;
    }
    // a grows with x on the positive side and against it on the other; m falls with t on the one and grows on the
    // other.
    HANDGRAD_MATH T signed_like_x(T value) const { return positive ? value : -value; }
  };

  // q^gamma, its first derivative with respect to q, and what makes the second of it.
  struct Powers {
    T p0, p1, bend;

    // The second derivative times u v, where v goes to 0 as q does or is the smaller one. Not by itself: below a gamma
    // of 2 it overflows long before the product does.
    HANDGRAD_MATH T p2(T u, T v) const {
      if constexpr (GammaIsTwo) {
        return 2 * u * v;
      } else {
        return p1 * u * (bend * v);
      }
    }
  };

  HANDGRAD_MATH Powers powers(T q) const {
    if constexpr (GammaIsTwo) {
      return {q * q, 2 * q, T(0)};
    } else {
      // Where q underflows, every term with p1 or p2 has a factor that goes to 0 faster than they grow.
      const T p0 = pow(q, gamma);
      const T inverse = q < std::numeric_limits<T>::min() ? T(0) : 1 / q;
      return {p0, gamma * p0 * inverse, (gamma - 1) * inverse};
    }
  }

  HANDGRAD_MATH T weight(T t) const { return weight_at_zero + weight_slope * t; }
};

// For the kind: kinds/elementwise_loss.h.
struct SigmoidFocalLossOp {
  static constexpr const char* name = "sigmoid_focal_loss";
  using Numbers = std::tuple<double, double>;
  template <class T>
  using Formulas = std::tuple<SigmoidFocalLoss<T, true>, SigmoidFocalLoss<T, false>>;
};

}  // namespace handgrad
