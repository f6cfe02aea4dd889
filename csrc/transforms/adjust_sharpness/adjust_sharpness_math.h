// A pixel and the mean of those around it, blended: of levels as torchvision rounds them, and of numbers. Derivation:
// docs/transforms/adjust_sharpness.md.
//
// The mean weighs a pixel five times and each of its eight neighbours once. `rest` is 1 - factor, of which torch rounds
// the difference of doubles.
#pragma once

#include <cstdint>

#include "math/fused.h"
#include "math/scalar_math.h"

namespace handgrad::adjust_sharpness {

// ---- levels ---------------------------------------------------------------------------------------------------------

// The nearest level to a thirteenth of a sum of levels, in 16 bits: 5042 / 2^16 is more than 1 / 13 by so little that
// no sum up to 13 * 255 comes to another whole number, and 13 is odd, so that none is in the middle between two.
HANDGRAD_MATH uint16_t blurred_level(uint16_t sum) {
  return static_cast<uint16_t>((static_cast<uint32_t>(sum + 6) * 5042u) >> 16);
}

// Cut to 0 to 255, and to a whole number, towards 0. NaN, of a factor that is none, is 0.
HANDGRAD_MATH int32_t sharpened_level(int32_t x, int32_t blurred, float rest) {
  const float blended = fused(static_cast<float>(blurred - x), rest, static_cast<float>(x));
  const float low = blended > 0 ? blended : 0.0f, cut = low < 255 ? low : 255.0f;
  return static_cast<int32_t>(cut);
}

// ---- numbers --------------------------------------------------------------------------------------------------------

// The mean around x less x, of the sums of what is above, beside and below it: the same for an image and its mirror.
template <class C>
HANDGRAD_MATH C mean_less(C x, C left, C middle, C right) {
  return ((left + right) + middle + 4 * x) * static_cast<C>(1.0 / 13) - x;
}

// Cut to 0 to 1. NaN stays.
template <class C>
HANDGRAD_MATH C unit_of(C x) {
  const C low = x < 0 ? C(0) : x;
  return low > 1 ? C(1) : low;
}
// Where the slope of that is 1: the ends are inside, as torch has it.
template <class C>
HANDGRAD_MATH bool is_inside(C x) {
  return x >= 0 && x <= 1;
}

}  // namespace handgrad::adjust_sharpness
