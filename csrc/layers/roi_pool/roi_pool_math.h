// RoI pooling: the largest pixel of each bin, which is a run of whole rows and columns. Derivation:
// docs/layers/roi_pool.md.
#pragma once

#include "math/boxes.h"
#include "math/whole_axis.h"

namespace handgrad::roi_pool {

// The pixels of one bin, the first and the one after the last.
struct Runs {
  int32_t row_begin, row_end, column_begin, column_end;

  HANDGRAD_MATH bool is_empty() const { return row_begin >= row_end || column_begin >= column_end; }
};

// The ends of a box belong to it.
template <class C>
HANDGRAD_MATH WholeAxis<C> axis_of(C first, C second, double spatial_scale, int32_t pooled_size, int32_t size) {
  return WholeAxis<C>(first, second, static_cast<C>(spatial_scale), true, pooled_size, size);
}

// Whether a pixel takes the place of the largest so far: one that is larger, or the first NaN. So of pixels that are
// equal the first stays.
template <class C>
HANDGRAD_MATH bool replaces(C pixel, C largest) {
  return !(pixel <= largest) && largest == largest;
}
// What there is of the one or of the other, by that rule: in the words that a compiler vectorises.
template <class C, class V>
HANDGRAD_MATH V of_larger(C pixel, C largest, V of_pixel, V of_largest) {
  const V next = pixel <= largest ? of_largest : of_pixel;
  return largest != largest ? of_largest : next;
}

}  // namespace handgrad::roi_pool
