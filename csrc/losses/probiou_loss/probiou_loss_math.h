// 1 - probabilistic IoU of one pair of rotated boxes, which is math/box_gaussians.h's. Derivatives:
// docs/losses/probiou_loss.md.
#pragma once

#include <tuple>

#include "math/box_gaussians.h"

namespace handgrad {

struct ProbIoULoss {
  ProbabilisticIoU iou;

  explicit ProbIoULoss(double eps) : iou(eps) {}

  HANDGRAD_MATH double value(const RotatedFrame<double>& frame) const { return 1 - iou.value(frame); }

  template <class N>
  HANDGRAD_MATH RotatedFrameSlope<N> slope(const RotatedFrame<N>& frame) const {
    const RotatedFrameSlope<N> to = iou.slope(frame);
    return {-to.u, -to.v, -to.turn, -to.p, -to.q, -to.a, -to.b};
  }
};

// For the kind: kinds/box_loss.h.
struct ProbIoULossOp {
  static constexpr const char* name = "probiou_loss";
  using Boxes = RotatedBoxes;
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<ProbIoULoss>;
};

}  // namespace handgrad
