// From a number to a level of uint8, as torchvision rounds what is read between pixels, or blended.
#pragma once

#include <cmath>
#include <cstdint>

#include "abi/macros.h"

namespace handgrad {

// Half to even, cut off at 0 and 255; NaN is 0.
HANDGRAD_MATH uint8_t level_of(float x) {
  const float level = x > 0 ? rintf(x) : 0.0f;
  return static_cast<uint8_t>(static_cast<int32_t>(level < 255.0f ? level : 255.0f));
}

}  // namespace handgrad
