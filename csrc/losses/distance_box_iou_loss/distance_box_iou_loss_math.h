// Distance IoU loss of one pair of boxes, with its derivatives. Derivation: docs/losses/distance_box_iou_loss.md.
//
//   L = 1 - IoU + (d_x^2 + d_y^2) / (w^2 + h^2 + eps)
//
// with the distance d of the centres and the extents w, h of the enclosing box.
#pragma once

#include <tuple>

#include "math/box_pairs.h"

namespace handgrad {

template <class T>
struct DistanceBoxIoULoss {
  IoULoss<T> iou;
  CentreDistance<T> distance;

  explicit DistanceBoxIoULoss(double eps) : iou{static_cast<T>(eps)}, distance{static_cast<T>(eps)} {}

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const {
    return iou.value(Overlap<T>(x, y)) + distance.value(x, y);
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    return iou.slope(x, y, Overlap<N>(x, y)) + distance.slope(x, y);
  }
};

// For the kind: kinds/box_loss.h.
struct DistanceBoxIoULossOp {
  static constexpr const char* name = "distance_box_iou_loss";
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<DistanceBoxIoULoss<T>>;
};

}  // namespace handgrad
