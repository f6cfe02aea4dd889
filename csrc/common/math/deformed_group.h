// A convolution's window whose taps are moved, each group of channels by offsets of its own: where they are. The taps
// of a column come one after the other, as DCNv3 counts them, and the middle one may be left out.
#pragma once

#include "math/sampled_group.h"

namespace handgrad {

struct DeformedGeometry : SampledGeometry<1> {
  // What DCNv3 and its successor usually have in a group.
  using UsualChannels = std::integer_sequence<int64_t, 16, 32>;
  // The longest side of a kernel.
  static constexpr int64_t kMostTaps = 1024;

  template <class C>
  struct Points;

  int64_t out_h, out_w;
  int64_t stride_h, stride_w, dilation_h, dilation_w;
  // Where the middle of the window is at the first output, and from there its first tap, before it is scaled.
  int64_t middle_y, middle_x, first_y, first_x;
  int32_t kernel_h;
  // The next whole number above 2^32 / kernel_h: a product in place of a division, exact for as many taps as there are.
  uint32_t columns_of_tap;
  // The tap that is left out; at the end, if none is.
  int32_t left_out;
  double offset_scale;

  HANDGRAD_MATH int32_t column_of(int32_t tap) const {
    if (kernel_h == 1) return tap;
    return static_cast<int32_t>(static_cast<uint64_t>(tap) * columns_of_tap >> 32);
  }

  template <class C>
  HANDGRAD_MATH Points<C> points_of(int64_t, int64_t query) const;
};

// The points of an output position.
template <class C>
struct DeformedGeometry::Points {
  const DeformedGeometry& geometry;
  C y, x;

  // Rounded step by step, so that which pixels a point lies between does not depend on the processor.
  HANDGRAD_MATH GroupSample<C> sample(int64_t p, C offset_x, C offset_y, C mask) const {
    const int32_t point = static_cast<int32_t>(p), tap = point < geometry.left_out ? point : point + 1;
    const int32_t column = geometry.column_of(tap), row = tap - column * geometry.kernel_h;
    const C tap_y = static_cast<C>(geometry.first_y + row * geometry.dilation_h) + offset_y;
    const C tap_x = static_cast<C>(geometry.first_x + column * geometry.dilation_w) + offset_x;
    const C scale = static_cast<C>(geometry.offset_scale);
    return GroupSample<C>(geometry.levels[0], y + rounded_product(tap_y, scale), x + rounded_product(tap_x, scale),
                          mask, scale, scale);
  }
};

template <class C>
HANDGRAD_MATH DeformedGeometry::Points<C> DeformedGeometry::points_of(int64_t, int64_t query) const {
  const int64_t row = query / out_w, column = query - row * out_w;
  return {*this, static_cast<C>(middle_y + row * stride_h), static_cast<C>(middle_x + column * stride_w)};
}

}  // namespace handgrad
