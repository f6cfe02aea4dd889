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
  EnclosedIoULoss<T> loss;

  explicit GeneralizedBoxIoULoss(double eps) : loss{static_cast<T>(eps)} {}

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const {
    return 1 - loss.measure(x, y, Overlap<T>(x, y));
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    return loss.slope(x, y, Overlap<N>(x, y));
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
