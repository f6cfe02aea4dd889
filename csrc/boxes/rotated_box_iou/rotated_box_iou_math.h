// IoU of one pair of rotated boxes, with its derivatives. Derivation: docs/boxes/rotated_box_iou.md.
//
//   IoU = I / U      U = S - I
//
// with the areas I of the intersection and S of both boxes together; 0 where there is no union. The areas are
// math/rotated_boxes.h's.
#pragma once

#include <tuple>

#include "math/rotated_boxes.h"

namespace handgrad {

// For the kind: kinds/box_matrix.h.
struct RotatedBoxIoUOp {
  static constexpr const char* name = "rotated_box_iou";
  using Boxes = RotatedBoxes;
  using Numbers = std::tuple<>;
  template <class T>
  using Formulas = std::tuple<RotatedIoU>;
};

}  // namespace handgrad
