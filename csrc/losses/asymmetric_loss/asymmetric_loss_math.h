// Asymmetric loss of one element, with both derivatives. Derivation: docs/losses/asymmetric_loss.md.
//
// TODO(author): your formula and its derivatives. As written, with d = x - t and r = sqrt(d^2 + epsilon^2):
//
//   F = r - epsilon      F_x = d / r      F_xx = epsilon^2 / r^3
//
// and F_t = -F_x, F_xt = -F_xx, F_tt = F_xx, because only d counts.
#pragma once

#include "scalar_math.h"

namespace handgrad {

template <class T>
struct AsymmetricLoss {
  T epsilon, factor = 1;

  explicit AsymmetricLoss(double epsilon_value) : epsilon(static_cast<T>(epsilon_value)) {}

  // The same loss, times a number.
  AsymmetricLoss scaled(double by) const {
    AsymmetricLoss loss = *this;
    loss.factor *= static_cast<T>(by);
    return loss;
  }

  struct Slope {
    T inputs, targets;
  };
  struct Curvature {
    T inputs_inputs, inputs_targets, targets_targets;
  };

  HANDGRAD_MATH T value(T x, T t) const {
    const T d = x - t;
    // r - epsilon would lose small differences to rounding.
    return factor * (d * d / (radius(d) + epsilon));
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const T d = x - t, by_x = factor * (d / radius(d));
    return {by_x, -by_x};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const T r = radius(x - t), share = epsilon / r, by_xx = factor * (share * share / r);
    return {by_xx, -by_xx, by_xx};
  }

 private:
  HANDGRAD_MATH T radius(T d) const { return square_root(d * d + epsilon * epsilon); }
};

}  // namespace handgrad
