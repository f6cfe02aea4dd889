// Distance IoU of one pair of boxes, with its derivatives. Derivation: docs/boxes/distance_box_iou.md.
//
//   DIoU = IoU - (d_x^2 + d_y^2) / (w^2 + h^2 + eps)
//
// with the distance d of the centres and the extents w, h of the enclosing box; a part of nothing is 0.
#pragma once

#include <tuple>

#include "math/box_pairs.h"

namespace handgrad {

template <class T>
struct DistanceBoxIoU {
  using Whole = NothingOfNothing<T>;
  IoULoss<T, Whole> iou{T(0)};
  CentreDistance<T, Whole> distance;

  explicit DistanceBoxIoU(double eps) : distance{static_cast<T>(eps)} {}

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const {
    return iou.measure(Overlap<T>(x, y)) - distance.value(x, y);
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    return iou.slope(x, y, Overlap<N>(x, y)) + distance.slope(x, y);
  }
};

// For the kind: kinds/box_matrix.h.
struct DistanceBoxIoUOp {
  static constexpr const char* name = "distance_box_iou";
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<DistanceBoxIoU<T>>;
};

}  // namespace handgrad
