// A box along one axis whose ends are rounded to whole pixels, as R-CNNs of before sampling between pixels had them:
// its bins are runs of whole pixels, which overlap by one where a bin is no whole number of them.
//
// Along an axis it answers what BoxAxis does, with a pixel for a sampling point, which does not move with the box.
#pragma once

#include "math/box_axis.h"

namespace handgrad {

// To the nearest whole number, a half away from zero, as C's round. `product` must not be one that a compiler may fuse.
template <class C>
HANDGRAD_MATH C rounded_away(C product) {
  const C size = product < 0 ? -product : product, below = floor(size);
  const C rounded = size - below >= C(0.5) ? below + 1 : below;
  return product < 0 ? -rounded : rounded;
}

template <class C>
struct WholeAxis {
  // Bins are cut at 0 and at `limit`, the size of the image or less.
  int32_t limit, pooled_size;
  C roi_start, bin_size;
  bool is_nonfinite;

  // The box ends before its rounded second coordinate, or after it (`inclusive`), and is at least one pixel long.
  HANDGRAD_MATH WholeAxis(C first, C second, C spatial_scale, bool inclusive, int32_t pooled_size, int32_t limit)
      : limit(limit), pooled_size(pooled_size) {
    roi_start = rounded_away(rounded_product(first, spatial_scale));
    C length = rounded_away(rounded_product(second, spatial_scale)) - roi_start + (inclusive ? C(1) : C(0));
    is_nonfinite = !(length - length == 0);
    if (length < 1) length = 1;
    bin_size = length / static_cast<C>(pooled_size);
  }

  // The pixels of bin p, [begin, end): none where it is beyond the image.
  HANDGRAD_MATH int32_t begin(int32_t p) const { return cut(floor(static_cast<C>(p) * bin_size)); }
  HANDGRAD_MATH int32_t end(int32_t p) const { return cut(ceil(static_cast<C>(p + 1) * bin_size)); }

  // The same of those that are one pixel.
  HANDGRAD_MATH int32_t begin(int32_t p, int32_t pixel) const {
    const int32_t first = begin(p);
    return first > pixel ? first : pixel;
  }
  HANDGRAD_MATH int32_t end(int32_t p, int32_t pixel) const {
    const int32_t last = end(p);
    return last < pixel + 1 ? last : pixel + 1;
  }

  // The bins that a pixel is in, [first_bin, last_bin).
  HANDGRAD_MATH int32_t first_bin(int32_t pixel) const {
    return first_that([&](int32_t p) { return end(p) > pixel; });
  }
  HANDGRAD_MATH int32_t last_bin(int32_t pixel) const {
    return first_that([&](int32_t p) { return begin(p) > pixel; });
  }

  // Whether the box has one of the pixels [first, last).
  HANDGRAD_MATH bool may_touch(int32_t first, int32_t last) const {
    return !is_nonfinite && end(pooled_size - 1) > first && begin(0) < last;
  }

  HANDGRAD_MATH C share(int32_t p) const { return C(1) / static_cast<C>(end(p) - begin(p)); }
  HANDGRAD_MATH C point(int32_t, int32_t i) const { return static_cast<C>(i); }
  HANDGRAD_MATH bool touches(C, int32_t) const { return true; }
  HANDGRAD_MATH AxisSample<C> sample(C point) const {
    const int32_t pixel = static_cast<int32_t>(point);
    return {pixel, pixel, C(0), C(0)};
  }
  HANDGRAD_MATH C d_first(int32_t, int32_t) const { return C(0); }
  HANDGRAD_MATH C d_second(int32_t, int32_t) const { return C(0); }

 private:
  HANDGRAD_MATH int32_t cut(C from_start) const {
    const C pixel = from_start + roi_start;
    if (!(pixel > 0)) return 0;
    return pixel < static_cast<C>(limit) ? static_cast<int32_t>(pixel) : limit;
  }

  template <class Asked>
  HANDGRAD_MATH int32_t first_that(const Asked& asked) const {
    int32_t low = 0, high = pooled_size;
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      if (asked(middle)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

}  // namespace handgrad
