// IoU losses of one pair of rotated boxes, with their derivatives. Derivation: docs/losses/rotated_box_iou_loss.md.
//
//   L = 1 - I / (U + eps)                          U = S - I
//   L = 1 - I / (U + eps) + (H - U) / (H + eps)    generalized
//
// with the areas I of the intersection, S of both boxes together, H of their convex hull, which are
// math/rotated_boxes.h's. A part of nothing is 0.
#pragma once

#include <tuple>

#include "math/box_pairs.h"
#include "math/rotated_boxes.h"

namespace handgrad {

template <bool Generalized>
struct RotatedBoxIoULoss {
  static constexpr bool kHull = Generalized;
  NothingOfNothing<double> by;
  bool generalized;

  RotatedBoxIoULoss(double eps, bool is_generalized) : by{eps}, generalized(is_generalized) {}
  bool serves() const { return generalized == Generalized; }

  HANDGRAD_MATH double value(const RotatedAreas<double>& areas) const {
    const double loss = 1 - by.part(areas.intersection, areas.united());
    return Generalized ? loss + by.part(areas.hull - areas.united(), areas.hull) : loss;
  }

  template <class N>
  HANDGRAD_MATH RotatedAreas<N> slope(const RotatedAreas<N>& areas) const {
    // L_S = I / (U + eps)^2 and L_I = -1 / (U + eps) - L_S
    const N by_union = by.inverse(areas.united());
    N sum = areas.intersection * by_union * by_union, hull = N(0);
    if constexpr (Generalized) {
      // Of (H - U) / (H + eps): -1 / (H + eps) with respect to U, and (U + eps) / (H + eps)^2 to H.
      const N by_hull = by.inverse(areas.hull);
      sum = sum - by_hull;
      hull = (areas.united() + by.eps) * by_hull * by_hull;
    }
    return {-by_union - sum, sum, hull};
  }
};

// For the kind: kinds/box_loss.h.
struct RotatedBoxIoULossOp {
  static constexpr const char* name = "rotated_box_iou_loss";
  using Boxes = RotatedBoxes;
  using Numbers = std::tuple<double, bool>;
  template <class T>
  using Formulas = std::tuple<RotatedBoxIoULoss<false>, RotatedBoxIoULoss<true>>;
};

}  // namespace handgrad
