// From a number to a level of uint8, as torchvision rounds what is read between pixels, or blended; and elements of
// images, levels or numbers, as they are computed with.
#pragma once

#include <cmath>
#include <cstdint>

#include "abi/dtype.h"
#include "abi/macros.h"
#include "math/convert.h"

namespace handgrad {

// Half to even, cut off at 0 and 255; NaN is 0.
HANDGRAD_MATH uint8_t level_of(float x) {
  const float level = x > 0 ? rintf(x) : 0.0f;
  return static_cast<uint8_t>(static_cast<int32_t>(level < 255.0f ? level : 255.0f));
}

template <class T>
struct Element {
  using C = Compute<T>;
  HANDGRAD_MATH static C read(T x) { return widen(x); }
  HANDGRAD_MATH static T made(C x) { return narrow<T>(x); }
};
template <>
struct Element<uint8_t> {
  using C = float;
  HANDGRAD_MATH static float read(uint8_t x) { return static_cast<float>(x); }
  HANDGRAD_MATH static uint8_t made(float x) { return level_of(x); }
};

}  // namespace handgrad
