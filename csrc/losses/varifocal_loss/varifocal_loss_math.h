// Varifocal loss of one element, with both derivatives. Derivation: docs/losses/varifocal_loss.md.
//
//   F(x, t) = w(t) ce(x, t)                      t > 0     w(t) = t, or 1 without weights
//             alpha |sigmoid(x) - t|^gamma ce    t <= 0    the modulated cross entropy
//
// Both are computed, and one of them chosen: a loop of vectors has no branches.
#pragma once

#include <tuple>

#include "math/modulated_cross_entropy.h"

namespace handgrad {

template <class T, bool GammaIsTwo>
struct VarifocalLoss {
  using Negative = ModulatedCrossEntropy<T, GammaIsTwo>;
  using Slope = typename Negative::Slope;
  using Curvature = typename Negative::Curvature;

  T alpha;
  Negative negative;
  // w(t) = weight_at_zero + weight_slope t
  T weight_at_zero, weight_slope;

  VarifocalLoss(double alpha_value, double gamma, bool iou_weighted)
      : alpha(static_cast<T>(alpha_value)),
        negative{static_cast<T>(gamma)},
        weight_at_zero(iou_weighted ? T(0) : T(1)),
        weight_slope(iou_weighted ? T(1) : T(0)) {}

  bool serves() const { return !GammaIsTwo || negative.beta == 2; }

  HANDGRAD_MATH T value(T x, T t) const {
    const LogitPoint<T> point(x, t);
    return t > 0 ? weight(t) * point.cross_entropy(point.distance) : alpha * negative.value(x, t);
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const LogitPoint<T> point(x, t);
    const Slope easy = negative.slope(x, t);
    // ce_x = sigmoid(x) - t, which is m - smaller on the positive side; ce_t = -x.
    const T ce = point.cross_entropy(point.finite_distance()), ce_x = point.signed_like_x(point.m - point.smaller);
    return {t > 0 ? weight(t) * ce_x : alpha * easy.inputs,
            t > 0 ? weight_slope * ce - weight(t) * x : alpha * easy.targets};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const LogitPoint<T> point(x, t);
    const Curvature easy = negative.curvature(x, t);
    const T ce_x = point.signed_like_x(point.m - point.smaller),
            finite_x = point.signed_like_x(point.finite_distance());
    return {t > 0 ? weight(t) * point.variance() : alpha * easy.inputs_inputs,
            t > 0 ? weight_slope * ce_x - weight(t) : alpha * easy.inputs_targets,
            t > 0 ? -2 * weight_slope * finite_x : alpha * easy.targets_targets};
  }

 private:
  HANDGRAD_MATH T weight(T t) const { return weight_at_zero + weight_slope * t; }
};

// For the kind: kinds/elementwise_loss.h.
struct VarifocalLossOp {
  static constexpr const char* name = "varifocal_loss";
  using Numbers = std::tuple<double, double, bool>;
  template <class T>
  using Formulas = std::tuple<VarifocalLoss<T, true>, VarifocalLoss<T, false>>;
};

}  // namespace handgrad
