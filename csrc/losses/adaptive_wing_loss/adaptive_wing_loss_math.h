// Adaptive wing loss of one element, with both derivatives. Derivation: docs/losses/adaptive_wing_loss.md.
//
//   F = omega log(1 + (|d| / epsilon)^(alpha - t))      |d| < theta      d = x - t
//       A (|d| - theta) + B                             else
//
// where B is the first line's value at theta, and A its slope. With r = min(|d|, theta) / epsilon, p = alpha - t and
// L(r, p) = omega log(1 + r^p) both are L + L_r (|d| - theta)+ / epsilon: one power, whichever it is.
#pragma once

#include <tuple>

#include "math/log1p.h"

namespace handgrad {

template <class T>
struct AdaptiveWingLoss {
  T alpha, omega, epsilon, theta, by_epsilon;

  AdaptiveWingLoss(double alpha_value, double omega_value, double epsilon_value, double theta_value)
      : alpha(static_cast<T>(alpha_value)),
        omega(static_cast<T>(omega_value)),
        epsilon(static_cast<T>(epsilon_value)),
        theta(static_cast<T>(theta_value)),
        by_epsilon(static_cast<T>(1 / epsilon_value)) {}

  struct Slope {
    T inputs, targets;
  };
  struct Curvature {
    T inputs_inputs, inputs_targets, targets_targets;
  };

  HANDGRAD_MATH T value(T x, T t) const {
    const Curve curve(*this, x, t);
    return omega * log1p_positive(curve.power) + curve.by_r * curve.beyond;
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const Curve curve(*this, x, t);
    const Exponent exponent(*this, curve);
    const T by_x = curve.sign * curve.by_r * by_epsilon;
    return {by_x, -by_x - exponent.by_p - exponent.by_rp * curve.beyond};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const Curve curve(*this, x, t);
    const Exponent exponent(*this, curve);
    // L_rr = omega p s (p (1 - s) - 1) / r^2
    const T by_rr = curve.by_r * (curve.p * curve.rest - 1) * curve.by_size;
    const T by_xx = curve.inside ? curve.sign * curve.sign * by_rr * by_epsilon * by_epsilon : T(0);
    const T by_xp = curve.sign * exponent.by_rp * by_epsilon;
    return {by_xx, -by_xx - by_xp, by_xx + 2 * by_xp + exponent.by_pp + exponent.by_rpp * curve.beyond};
  }

 private:
  // L and its derivative with respect to r.
  struct Curve {
    bool inside;
    T sign, p, r, by_size, power, share, rest, by_r;
    T beyond;  // (|d| - theta)+ / epsilon

    HANDGRAD_MATH Curve(const AdaptiveWingLoss& loss, T x, T t) {
      const T d = x - t, size = absolute(d);
      inside = size < loss.theta;
      const T below = d < 0 ? T(-1) : d;
      sign = d > 0 ? T(1) : below;
      p = loss.alpha - t;
      r = (inside ? size : loss.theta) * loss.by_epsilon;
      const T of_any = pow(r, p);
      power = r == 0 ? T(0) : of_any;
      // s = r^p / (1 + r^p), and what is left of 1
      rest = 1 / (1 + power);
      share = power * rest;
      by_size = r > 0 ? 1 / r : T(0);
      // L_r = omega p s / r
      by_r = loss.omega * p * share * by_size;
      beyond = inside ? T(0) : (size - loss.theta) * loss.by_epsilon;
    }
  };

  // Derivatives that p has a part in, by log r, which is of no matter where s is 0.
  struct Exponent {
    T by_p, by_rp, by_pp, by_rpp;

    HANDGRAD_MATH Exponent(const AdaptiveWingLoss& loss, const Curve& curve) {
      const T log_r = curve.r > 0 ? log(curve.r) : T(0);
      const T by_power = curve.share * curve.rest * log_r;  // s_p
      by_p = loss.omega * curve.share * log_r;
      by_pp = loss.omega * by_power * log_r;
      by_rp = loss.omega * curve.by_size * (curve.share + curve.p * by_power);
      by_rpp = loss.omega * curve.by_size * by_power * (2 + curve.p * (curve.rest - curve.share) * log_r);
    }
  };
};

// For the kind: kinds/elementwise_loss.h.
struct AdaptiveWingLossOp {
  static constexpr const char* name = "adaptive_wing_loss";
  using Numbers = std::tuple<double, double, double, double>;
  template <class T>
  using Formulas = std::tuple<AdaptiveWingLoss<T>>;
};

}  // namespace handgrad
