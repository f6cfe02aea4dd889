// Wing loss of one element, with both derivatives. Derivation: docs/losses/wing_loss.md.
//
//   F = w log(1 + |d| / epsilon)      |d| < w      d = x - t
//       |d| - C                       else         C = w - w log(1 + w / epsilon)
//
// Both are computed, and one of them chosen: a loop of vectors has no branches.
#pragma once

#include <algorithm>
#include <limits>
#include <tuple>

#include "math/log1p.h"

namespace handgrad {

template <class T>
struct WingLoss {
  T w, epsilon, per_epsilon, offset;  // offset: C

  WingLoss(double w_value, double epsilon_value)
      : w(static_cast<T>(w_value)),
        epsilon(static_cast<T>(epsilon_value)),
        per_epsilon(static_cast<T>(std::min<double>(1 / epsilon_value, std::numeric_limits<T>::max()))),
        offset(static_cast<T>(w_value - w_value * std::log1p(w_value / epsilon_value))) {}

  struct Slope {
    T inputs, targets;
  };
  struct Curvature {
    T inputs_inputs, inputs_targets, targets_targets;
  };

  HANDGRAD_MATH T value(T x, T t) const {
    const T size = absolute(x - t), near = size < w ? size : w;
    return size < w ? w * log1p_positive(near * per_epsilon) : size - offset;
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const T d = x - t, size = absolute(d);
    const T by_x = sign_of(d) * (size < w ? w / (epsilon + size) : T(1));
    return {by_x, -by_x};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const T d = x - t, size = absolute(d), sign = sign_of(d), near = epsilon + size;
    // At the kink 0, as of its slope, nothing is said.
    const T by_xx = size < w ? -sign * sign * w / (near * near) : T(0);
    return {by_xx, -by_xx, by_xx};
  }

 private:
  // 0 of 0, as of torch's absolute value; NaN of NaN.
  static HANDGRAD_MATH T sign_of(T d) {
    const T below = d < 0 ? T(-1) : d;
    return d > 0 ? T(1) : below;
  }
};

// For the kind: kinds/elementwise_loss.h.
struct WingLossOp {
  static constexpr const char* name = "wing_loss";
  using Numbers = std::tuple<double, double>;
  template <class T>
  using Formulas = std::tuple<WingLoss<T>>;
};

}  // namespace handgrad
