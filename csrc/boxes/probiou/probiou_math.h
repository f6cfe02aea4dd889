// Probabilistic IoU of one pair of rotated boxes: math/box_gaussians.h. Derivation: docs/boxes/probiou.md.
#pragma once

#include <tuple>

#include "math/box_gaussians.h"

namespace handgrad {

// For the kind: kinds/box_matrix.h.
struct ProbIoUOp {
  static constexpr const char* name = "probiou";
  using Boxes = RotatedBoxes;
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<ProbabilisticIoU>;
};

}  // namespace handgrad
