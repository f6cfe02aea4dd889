// When one rotated box suppresses another: if their intersection over union, computed in double whatever their type, is
// above the threshold.
#pragma once

#include "math/rotated_boxes.h"

namespace handgrad::rotated_nms {

// A box with the radius of the circle around it.
struct Candidate {
  static constexpr int kNumbers = 6;
  RotatedBox<double> box;
  double radius;
};

// A box of finite, positive extents, which alone can share a part of more than nothing with any other.
HANDGRAD_MATH bool is_proper(const RotatedBox<double>& box) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double area = box.width * box.height;
  return box.width > 0 && box.height > 0 && area > 0 && area < infinity && absolute(box.x) < infinity &&
         absolute(box.y) < infinity && absolute(box.angle) < infinity;
}

// What is not a proper box has no circle that meets any other.
HANDGRAD_MATH Candidate candidate_of(const RotatedBox<double>& box) {
  if (!is_proper(box)) return {{0, 0, 0, 0, 0}, -std::numeric_limits<double>::infinity()};
  return {box, 0.5 * square_root(box.width * box.width + box.height * box.height)};
}

struct Suppression {
  double threshold;

  // Whether two circles meet, rounding allowed for.
  HANDGRAD_MATH bool may(double x1, double y1, double radius1, double x2, double y2, double radius2) const {
    const double x = x1 - x2, y = y1 - y2, reach = radius1 + radius2;
    return (reach > 0) & (x * x + y * y <= reach * reach * (1 + 1e-12));
  }
  HANDGRAD_MATH bool decides(const RotatedBox<double>& a, const RotatedBox<double>& b) const {
    const RotatedAreas<double> areas = RotatedPair<double>(a, b).areas<false>();
    return areas.intersection / areas.united() > threshold;
  }
};

}  // namespace handgrad::rotated_nms
