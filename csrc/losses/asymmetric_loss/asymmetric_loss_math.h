// Asymmetric loss of one element, with both derivatives. Derivation: docs/losses/asymmetric_loss.md.
//
// TODO(author): your formula and its derivatives. As written, with d = x - t and r = sqrt(d^2 + gamma_neg^2):
//
//   F = r - gamma_neg      F_x = d / r      F_xx = gamma_neg^2 / r^3
//
// and F_t = -F_x, F_xt = -F_xx, F_tt = F_xx, because only d counts.
#pragma once

#include "scalar_math.h"

namespace handgrad {

template <class T>
struct AsymmetricLoss {
  T gamma_neg, gamma_pos, clip, factor = 1;

  AsymmetricLoss(double gamma_neg_value, double gamma_pos_value, double clip_value)
      : gamma_neg(static_cast<T>(gamma_neg_value)),
        gamma_pos(static_cast<T>(gamma_pos_value)),
        clip(static_cast<T>(clip_value)) {}

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
    // r - gamma_neg would lose small differences to rounding.
    return factor * (d * d / (radius(d) + gamma_neg));
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const T d = x - t, by_x = factor * (d / radius(d));
    return {by_x, -by_x};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const T r = radius(x - t), share = gamma_neg / r, by_xx = factor * (share * share / r);
    return {by_xx, -by_xx, by_xx};
  }

 private:
  HANDGRAD_MATH T radius(T d) const { return square_root(d * d + gamma_neg * gamma_neg); }
};

}  // namespace handgrad
