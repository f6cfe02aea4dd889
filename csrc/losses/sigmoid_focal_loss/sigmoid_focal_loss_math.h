// Sigmoid focal loss of one element, with both derivatives. Derivation: docs/losses/sigmoid_focal_loss.md.
//
//   F(x, t) = w(t) q^gamma ce     w  = alpha t + (1 - alpha)(1 - t)        (1 without class weights)
//                                 q  = p (1 - t) + (1 - p) t,  p = sigmoid(x)
//                                 ce = -t log p - (1 - t) log(1 - p)
#pragma once

#include <limits>

#include "scalar_math.h"

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
    const T w = weight(t);
    // At an infinite logit q_x is 0 and ce infinite; their product has the limit 0, which a merely huge ce gives.
    const T ce = at.cross_entropy(at.finite_distance());
    return {w * (power.p1 * at.q_x() * ce + power.p0 * at.ce_x()),
            weight_slope * power.p0 * ce + w * (power.p1 * at.q_t() * ce - power.p0 * x)};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const Point at(x, t);
    const Powers power = powers(at.q());
    const T w = weight(t);
    const T ce = at.cross_entropy(at.finite_distance());
    const T q_x = at.q_x(), q_t = at.q_t(), ce_x = at.ce_x(), ce_t = -x;
    const T variance = at.p * at.not_p;
    const T q_xx = variance * q_t * (1 - 2 * t), q_xt = -2 * variance;
    return {w * (power.p2 * q_x * q_x * ce + power.p1 * (q_xx * ce + 2 * q_x * ce_x) + power.p0 * variance),
            weight_slope * (power.p1 * q_x * ce + power.p0 * ce_x) +
                w * (power.p2 * q_x * q_t * ce + power.p1 * (q_xt * ce + q_x * ce_t + q_t * ce_x) - power.p0),
            2 * weight_slope * (power.p1 * q_t * ce + power.p0 * ce_t) +
                w * (power.p2 * q_t * q_t * ce + 2 * power.p1 * q_t * ce_t)};
  }

 private:
  // What value and derivatives share. p and 1 - p are both computed without cancellation, from e = exp(-|x|): the
  // confident examples, whose loss focal loss is about, have one of them tiny.
  struct Point {
    T t, distance, softness, p, not_p;
    bool positive;

    HANDGRAD_MATH Point(T x, T target) {
      t = target;
      distance = absolute(x);
      positive = x >= 0;
      const T e = exp(-distance), larger = 1 / (1 + e), smaller = e * larger;
      softness = log1p_unit(e);
      p = positive ? larger : smaller;
      not_p = positive ? smaller : larger;
    }

    // The probability given to the wrong class, 1 - p_t in the paper.
    HANDGRAD_MATH T q() const { return p * (1 - t) + not_p * t; }
    HANDGRAD_MATH T q_x() const { return p * not_p * (1 - 2 * t); }
    HANDGRAD_MATH T q_t() const { return not_p - p; }
    // t softplus(-x) + (1 - t) softplus(x). The target's weight on the wrong side of 0 may be exactly 0; an infinite
    // distance then costs nothing, where 0 * inf would give NaN.
    HANDGRAD_MATH T cross_entropy(T from) const {
      const T wrong = positive ? 1 - t : t;
      return (wrong == 0 ? T(0) : wrong * from) + softness;
    }
    // p - t, without the cancellation of p against a target of 1.
    HANDGRAD_MATH T ce_x() const { return p * (1 - t) - not_p * t; }
    HANDGRAD_MATH T finite_distance() const {
      constexpr T largest = std::numeric_limits<T>::max();
      return distance > largest ? largest : distance;
    }
  };

  // q^gamma and its first two derivatives with respect to q.
  struct Powers {
    T p0, p1, p2;
  };

  HANDGRAD_MATH Powers powers(T q) const {
    if constexpr (GammaIsTwo) {
      return {q * q, 2 * q, T(2)};
    } else {
      // Where q underflows, every term with p1 or p2 has a factor that goes to 0 faster than they grow.
      const T p0 = pow(q, gamma);
      const T inverse = q < std::numeric_limits<T>::min() ? T(0) : 1 / q;
      const T p1 = gamma * p0 * inverse;
      return {p0, p1, (gamma - 1) * p1 * inverse};
    }
  }

  HANDGRAD_MATH T weight(T t) const { return weight_at_zero + weight_slope * t; }
};

}  // namespace handgrad
