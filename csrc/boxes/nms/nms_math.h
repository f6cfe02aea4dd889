// When one box suppresses another: if their intersection over union, as it comes out rounded, is above the threshold.
// docs/boxes/nms.md proves the two shortcuts.
#pragma once

#include "math/boxes.h"

namespace handgrad::nms {

template <class C>
struct Suppression {
  // The largest number of this type that is not above the threshold asked for: the same decisions, compared in C.
  C threshold;
  // Fraction of its size by which a box can be narrowed on each side, with boxes that suppress each other still
  // meeting.
  C narrowing;

  explicit Suppression(double iou_threshold) : threshold(static_cast<C>(iou_threshold)) {
    if (static_cast<double>(threshold) > iou_threshold) threshold = std::nextafter(threshold, C(-1));
    // A little less than t / (1 + t), because sizes and areas are rounded; and nothing where t is so small that an
    // intersection above it could be subnormal.
    const C t = threshold;
    narrowing = t < C(0x1p-20) ? C(0) : t / (1 + t) * (1 - 64 * std::numeric_limits<C>::epsilon());
  }

  // True if decides() is, and seldom otherwise: the product instead of the division.
  HANDGRAD_MATH bool may(C intersection, C whole) const {
    return intersection >= threshold * whole && intersection > 0;
  }
  HANDGRAD_MATH bool decides(C intersection, C whole) const { return intersection / whole > threshold; }

  // The box narrowed to what must meet.
  HANDGRAD_MATH Box<C> core(const Box<C>& box, C area) const {
    // An area near the smallest normal number is not exact enough to promise anything.
    const C part = area > std::numeric_limits<C>::min() * C(0x1p26) ? narrowing : C(0);
    const C x = part * (box.x2 - box.x1), y = part * (box.y2 - box.y1);
    return {box.x1 + x, box.y1 + y, box.x2 - x, box.y2 - y};
  }
};

}  // namespace handgrad::nms
