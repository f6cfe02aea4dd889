// Where the bins of a level are: torch's adaptive pools'. Bin i of n begins at floor(i size / n) and ends at ceil((i +
// 1) size / n), so that bins cover an axis, share pixels where n does not divide it, and have a pixel each where it is
// shorter than n.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad::spatial_pyramid_pool_2d {

HANDGRAD_MATH int64_t bin_begin(int64_t i, int64_t bins, int64_t size) { return i * size / bins; }
HANDGRAD_MATH int64_t bin_end(int64_t i, int64_t bins, int64_t size) { return ((i + 1) * size + bins - 1) / bins; }
// The bins that a pixel is in, [first, last).
HANDGRAD_MATH int64_t first_bin(int64_t pixel, int64_t bins, int64_t size) { return pixel * bins / size; }
HANDGRAD_MATH int64_t last_bin(int64_t pixel, int64_t bins, int64_t size) {
  return ((pixel + 1) * bins + size - 1) / size;
}

// Whether a later pixel takes the place of the largest so far: of equal ones the first counts, of NaNs too.
template <class C>
HANDGRAD_MATH bool replaces(C pixel, C largest) {
  return pixel > largest || (pixel != pixel && largest == largest);
}

}  // namespace handgrad::spatial_pyramid_pool_2d
