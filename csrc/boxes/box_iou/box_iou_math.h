// IoU of one pair of boxes, with its derivatives. Derivation: docs/boxes/box_iou.md.
//
//   IoU = I / U      U = S - I
//
// with the areas I of the intersection and S of both boxes together; 0 where there is no union.
#pragma once

#include <tuple>

#include "math/box_pairs.h"

namespace handgrad {

template <class T>
struct BoxIoU {
  using Whole = NothingOfNothing<T>;
  IoULoss<T, Whole> iou{T(0)};

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const { return iou.measure(Overlap<T>(x, y)); }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    return iou.slope(x, y, Overlap<N>(x, y));
  }
};

// For the kind: kinds/box_matrix.h.
struct BoxIoUOp {
  static constexpr const char* name = "box_iou";
  using Numbers = std::tuple<>;
  template <class T>
  using Formulas = std::tuple<BoxIoU<T>>;
};

}  // namespace handgrad
