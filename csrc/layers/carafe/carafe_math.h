// Which pixels an output is made of. Every pixel of the features becomes scale x scale outputs, and all of these look
// at one window, kernel x kernel pixels around it, each with weights of its own.
//
// docs/layers/carafe.md has the derivatives: with respect to the features a sum over the outputs that look at a pixel,
// with respect to a weight a sum over the channels that share it.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad::carafe {

// Taps [begin, end) of a window along one axis.
struct Taps {
  int64_t begin, end;
};

struct Geometry {
  int64_t batch, channels, height, width;  // of the features
  int64_t kernel, groups, scale;

  HANDGRAD_MATH int64_t radius() const { return kernel / 2; }
  HANDGRAD_MATH int64_t taps() const { return kernel * kernel; }
  // Outputs that share a window, and channels that share a weight.
  HANDGRAD_MATH int64_t shares() const { return scale * scale; }
  HANDGRAD_MATH int64_t group_channels() const { return channels / groups; }

  // Those of the window around `at` that are in [first, last).
  HANDGRAD_MATH Taps within(int64_t at, int64_t first, int64_t last) const {
    const int64_t begin = first - (at - radius()), end = last - (at - radius());
    return {begin < 0 ? 0 : begin, end < kernel ? end : kernel};
  }
};

}  // namespace handgrad::carafe
