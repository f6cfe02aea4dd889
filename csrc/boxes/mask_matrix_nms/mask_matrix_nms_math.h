// Masks as bits, and the overlap of two of them; math/score_decay.h has the rest.
#pragma once

#include "math/score_decay.h"

namespace handgrad::mask_matrix_nms {

// Bit k says whether byte k of eight, the first of which is lowest, is not 0.
HANDGRAD_MATH uint64_t bits_of_bytes(uint64_t bytes) {
  constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7f;
  // The highest bit of each byte, first: of one of the lower seven being set, or of itself.
  const uint64_t highest = ((bytes & kLow) + kLow) | bytes;
  const uint64_t ones = highest >> 7 & 0x0101010101010101;
  // Bit 8 i of `ones` goes to 56 + i by one of the factor's bits, and no two to one.
  return ones * 0x0102040810204080 >> 56;
}

// A mask that can overlap others: it has pixels, and an area by which something can be divided.
template <class C>
HANDGRAD_MATH bool is_proper(C area) {
  return area > 0 && area < std::numeric_limits<C>::infinity();
}

// Of two proper masks that have so many pixels in common. An area that was given may be less than what lies within it:
// then the two are one.
template <class C>
HANDGRAD_MATH C overlap(int64_t pixels, C area_a, C area_b) {
  const C shared = static_cast<C>(pixels), whole = area_a + area_b - shared;
  if (!(shared > 0)) return 0;
  return whole > shared ? shared / whole : C(1);
}

}  // namespace handgrad::mask_matrix_nms
