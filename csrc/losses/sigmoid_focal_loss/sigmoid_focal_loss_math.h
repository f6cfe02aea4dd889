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

#include <tuple>

#include "math/logit_point.h"
#include "math/powers.h"

namespace handgrad {

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
    const Point point(x, t);
    return weight(t) * powers(point.q()).p0 * point.cross_entropy(point.distance);
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const Point point(x, t);
    const Powers<T, GammaIsTwo> power = powers(point.q());
    const T w = weight(t), a = point.finite_distance(), ce = point.cross_entropy(a);
    return {point.signed_like_x(w * (power.p1 * point.q_a() * ce + power.p0 * point.ce_a())),
            weight_slope * power.p0 * ce - point.signed_like_x(w * (power.p1 * point.q_m() * ce + power.p0 * a))};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const Point point(x, t);
    const Powers<T, GammaIsTwo> power = powers(point.q());
    const T w = weight(t), a = point.finite_distance(), ce = point.cross_entropy(a);
    const T q_a = point.q_a(), q_m = point.q_m(), ce_a = point.ce_a(), variance = point.larger * point.smaller;
    const T q_aa = -variance * q_m * (2 * point.m - 1), q_am = 2 * variance;
    // p1 may be large where what it is multiplied by is small: it comes first, or their product would underflow.
    return {w * (power.p2(q_a, q_a) * ce + power.p1 * q_aa * ce + power.p1 * q_a * (2 * ce_a) + power.p0 * variance),
            point.signed_like_x(weight_slope * (power.p1 * q_a * ce + power.p0 * ce_a)) -
                w * (power.p2(q_a, q_m * ce) + power.p1 * (q_am * ce + q_a * a + q_m * ce_a) + power.p0),
            w * (power.p2(q_m, q_m * ce) + 2 * power.p1 * q_m * a) -
                point.signed_like_x(2 * weight_slope * (power.p1 * q_m * ce + power.p0 * a))};
  }

 private:
  // What value and derivatives share. Subscripts are derivatives: q_a is that of q with respect to a.
  struct Point : LogitPoint<T> {
    using LogitPoint<T>::LogitPoint;

    HANDGRAD_MATH T q() const { return this->larger * this->m + this->smaller * (1 - this->m); }
    HANDGRAD_MATH T q_a() const { return this->larger * this->smaller * (2 * this->m - 1); }
    HANDGRAD_MATH T q_m() const { return this->larger - this->smaller; }
    HANDGRAD_MATH T ce_a() const { return this->larger * this->m - this->smaller * (1 - this->m); }
  };

  HANDGRAD_MATH Powers<T, GammaIsTwo> powers(T q) const { return Powers<T, GammaIsTwo>(q, q, gamma); }

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
