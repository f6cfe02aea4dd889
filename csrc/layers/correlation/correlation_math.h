// Which pixels a correlation compares: an output has a window in the first map, of so many taps, and for each
// displacement the same window moved in the second. Rows and columns are alike, an axis each.
//
// docs/layers/correlation.md has the derivatives: with respect to either map they are one sum over displacements, of
// the other map's pixels times what the outputs that look at a pixel have for gradients.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad::correlation {

// Rounded towards minus infinity, and towards plus infinity; divisor > 0.
HANDGRAD_MATH int64_t floor_divide(int64_t x, int64_t divisor) {
  return x >= 0 ? x / divisor : -((divisor - 1 - x) / divisor);
}
HANDGRAD_MATH int64_t ceil_divide(int64_t x, int64_t divisor) { return -floor_divide(-x, divisor); }

struct Axis {
  int64_t size, out;       // pixels of the maps, outputs
  int64_t kernel, radius;  // taps; the largest displacement, in steps
  int64_t stride, padding, dilation, step;

  HANDGRAD_MATH int64_t displacements() const { return 2 * radius + 1; }
  // The pixel of the first map that a tap of an output reads; outside there are zeros.
  HANDGRAD_MATH int64_t pixel(int64_t output, int64_t tap) const { return output * stride - padding + tap * dilation; }
  // By how much the second map's pixel is further.
  HANDGRAD_MATH int64_t shift(int64_t displacement) const { return step * (displacement - radius); }
  // The output that reads `at` with this tap; -1 where there is none.
  HANDGRAD_MATH int64_t output_of(int64_t at, int64_t tap) const {
    const int64_t from_first = at + padding - tap * dilation;
    if (from_first < 0) return -1;
    if (stride == 1) return from_first < out ? from_first : -1;
    const int64_t output = from_first / stride;
    return output * stride == from_first && output < out ? output : -1;
  }
  HANDGRAD_MATH bool has(int64_t at) const { return at >= 0 && at < size; }
};

}  // namespace handgrad::correlation
