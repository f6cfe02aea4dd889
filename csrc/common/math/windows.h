// Windows of a filter over the last two or three dimensions of an image: where they lie, their weights, and what a
// pixel that is mirrored over a border adds to them. Three axes always; a plane has one slice.
#pragma once

#include "math/scalar_math.h"

namespace handgrad {

// What lies beyond an image: nothing (windows stay within it), its mirror image without the border's own pixels, or 0.
enum class WindowPadding : int64_t { valid = 0, reflect = 1, zeros = 2 };

struct WindowAxis {
  int32_t size = 1, windows = 1;
  int32_t taps = 1, padding = 0;
  bool mirrors = false;

  // The pixel at a place of the padded axis; -1: there is none.
  HANDGRAD_MATH int32_t pixel(int32_t padded) const {
    const int32_t i = padded - padding, last = size - 1;
    if (i >= 0 && i <= last) return i;
    const int32_t mirrored = i < 0 ? -i : 2 * last - i;
    return mirrors && mirrored >= 0 && mirrored <= last ? mirrored : -1;
  }
  // The place on the padded axis where pixel i is seen in the mirror before the first pixel, or behind the last.
  HANDGRAD_MATH int32_t mirrored(int32_t i, bool behind) const { return (behind ? 2 * (size - 1) - i : -i) + padding; }
};

struct WindowAxes {
  WindowAxis axis[3];
  // 2 or 3; of two, axis 0 is no axis.
  int32_t count = 2;

  HANDGRAD_MATH int64_t windows() const { return int64_t{axis[0].windows} * axis[1].windows * axis[2].windows; }
};

// Rows of a block of numbers, `pitch` apart: a row begins with a whole vector where that is worth something.
struct WindowBuffer {
  int32_t extent[3], pitch;

  HANDGRAD_MATH static WindowBuffer of(int32_t s, int32_t r, int32_t w, int32_t alignment) {
    return {{s, r, w}, (w + alignment - 1) / alignment * alignment};
  }
  // With another extent along one axis.
  HANDGRAD_MATH WindowBuffer with(int axis, int32_t extent_along, int32_t alignment) const {
    return of(axis == 0 ? extent_along : extent[0], axis == 1 ? extent_along : extent[1],
              axis == 2 ? extent_along : extent[2], alignment);
  }
  HANDGRAD_MATH int32_t count() const { return extent[0] * extent[1] * pitch; }
  HANDGRAD_MATH int32_t step(int axis) const { return axis == 2 ? 1 : axis == 1 ? pitch : extent[1] * pitch; }
  HANDGRAD_MATH int32_t index(int32_t s, int32_t r, int32_t w) const { return (s * extent[1] + r) * pitch + w; }
};

// The weight of tap j before they are made to add up to 1; sigma 0: all alike.
HANDGRAD_MATH double window_weight(int32_t taps, double sigma, int32_t j) {
  const double distance = (j - (taps - 1) / 2) / (sigma > 0 ? sigma : 1.0);
  return sigma > 0 ? exp(-0.5 * distance * distance) : 1.0;
}

}  // namespace handgrad
