// Generalized IoU loss of one pair of boxes, with its derivatives. Derivation: docs/losses/generalized_box_iou_loss.md.
//
//   L = 1 - I / (U + eps) + (A - U) / (A + eps)      U = S - I
//
// with the areas I of the intersection, S of both boxes together, A of the enclosing box.
#pragma once

#include <tuple>

#include "math/box_pairs.h"

namespace handgrad {

template <class T>
struct GeneralizedBoxIoULoss {
  T eps;

  explicit GeneralizedBoxIoULoss(double eps_value) : eps(static_cast<T>(eps_value)) {}

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const {
    const Overlap<T> overlap(x, y);
    const T enclosing = x.enclosing * y.enclosing;
    return 1 - (overlap.intersection / (overlap.united + eps) - (enclosing - overlap.united) / (enclosing + eps));
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    const Overlap<N> overlap(x, y);
    const N by_union = 1 / (overlap.united + eps), by_enclosing = 1 / (x.enclosing * y.enclosing + eps);
    const N iou = overlap.intersection * by_union;
    // L_S = I / (U + eps)^2 - 1 / (A + eps), L_I = -1 / (U + eps) - L_S, L_A = (U + eps) / (A + eps)^2
    const N sum = iou * by_union - by_enclosing;
    const AreaSlope<N> areas{sum, -by_union - sum, (overlap.united + eps) * by_enclosing * by_enclosing};
    return areas.along_axes(x, y, overlap.exists);
  }
};

// For the kind: kinds/box_loss.h.
struct GeneralizedBoxIoULossOp {
  static constexpr const char* name = "generalized_box_iou_loss";
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<GeneralizedBoxIoULoss<T>>;
};

}  // namespace handgrad
