// Complete IoU of one pair of boxes, with its derivatives. Derivation: docs/boxes/complete_box_iou.md.
//
//   CIoU = IoU - (d_x^2 + d_y^2) / (w^2 + h^2 + eps) - alpha v
//   v = 4 / pi^2 (atan(w2 / h2) - atan(w1 / h1))^2      alpha = v / (1 - IoU + v + eps), which is not differentiated
#pragma once

#include <tuple>

#include "math/aspect_ratio.h"

namespace handgrad {

template <class T>
struct CompleteBoxIoU {
  using Whole = NothingOfNothing<T>;
  IoULoss<T, Whole> iou{T(0)};
  CentreDistance<T, Whole> distance;
  AspectRatio<T> aspect;

  explicit CompleteBoxIoU(double eps) : distance{static_cast<T>(eps)}, aspect{static_cast<T>(eps)} {}

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const {
    const T shared = iou.measure(Overlap<T>(x, y));
    return shared - distance.value(x, y) - aspect.value(x, y, 1 - shared);
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    const Overlap<N> overlap(x, y);
    const T without = 1 - iou.by.part(value_of(overlap.intersection), value_of(overlap.united));
    return iou.slope(x, y, overlap) + distance.slope(x, y) + aspect.slope(x, y, without);
  }
};

// For the kind: kinds/box_matrix.h.
struct CompleteBoxIoUOp {
  static constexpr const char* name = "complete_box_iou";
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<CompleteBoxIoU<T>>;
};

}  // namespace handgrad
