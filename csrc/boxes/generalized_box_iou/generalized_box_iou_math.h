// Generalized IoU of one pair of boxes, with its derivatives. Derivation: docs/boxes/generalized_box_iou.md.
//
//   GIoU = I / U - (A - U) / A      U = S - I
//
// with the areas I of the intersection, S of both boxes together, A of the enclosing box; a part of nothing is 0.
#pragma once

#include <tuple>

#include "math/box_pairs.h"

namespace handgrad {

template <class T>
struct GeneralizedBoxIoU {
  EnclosedIoULoss<T, NothingOfNothing<T>> loss{T(0)};

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const {
    return loss.measure(x, y, Overlap<T>(x, y));
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    return loss.slope(x, y, Overlap<N>(x, y));
  }
};

// For the kind: kinds/box_matrix.h.
struct GeneralizedBoxIoUOp {
  static constexpr const char* name = "generalized_box_iou";
  using Numbers = std::tuple<>;
  template <class T>
  using Formulas = std::tuple<GeneralizedBoxIoU<T>>;
};

}  // namespace handgrad
