// Efficient IoU loss of one pair of boxes, with its derivatives. Derivation: docs/losses/efficient_box_iou_loss.md.
//
//   L = 1 - IoU + (d_x^2 + d_y^2) / (w^2 + h^2 + eps) + (w1 - w2)^2 / (w^2 + eps) + (h1 - h2)^2 / (h^2 + eps)
//
// with the distance d of the centres and the extents w, h of the enclosing box.
#pragma once

#include <tuple>

#include "math/box_pairs.h"

namespace handgrad {

template <class T>
struct EfficientBoxIoULoss {
  IoULoss<T> iou;
  CentreDistance<T> distance;

  explicit EfficientBoxIoULoss(double eps) : iou{static_cast<T>(eps)}, distance{static_cast<T>(eps)} {}

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const {
    return iou.value(Overlap<T>(x, y)) + distance.value(x, y) + extent(x) + extent(y);
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    const BoxPairSlope<N> extents{extent_slope(x), extent_slope(y)};
    return iou.slope(x, y, Overlap<N>(x, y)) + distance.slope(x, y) + extents;
  }

 private:
  HANDGRAD_MATH T extent(const AxisPair<T>& axis) const {
    const T difference = axis.first - axis.second;
    return difference * difference / (axis.enclosing * axis.enclosing + iou.by.eps);
  }

  template <class N>
  HANDGRAD_MATH AxisSlope<N> extent_slope(const AxisPair<N>& axis) const {
    const N difference = axis.first - axis.second, by_square = 1 / (axis.enclosing * axis.enclosing + iou.by.eps);
    const N by_difference = T(2) * difference * by_square;
    return {by_difference, -by_difference, N(0), -by_difference * difference * by_square * axis.enclosing, N(0)};
  }
};

// For the kind: kinds/box_loss.h.
struct EfficientBoxIoULossOp {
  static constexpr const char* name = "efficient_box_iou_loss";
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<EfficientBoxIoULoss<T>>;
};

}  // namespace handgrad
