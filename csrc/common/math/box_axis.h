// A box along one axis: its bins, the sampling points in them, and the pixels beside each point, with derivatives with
// respect to the box's two coordinates on that axis.
//
// What is averaged over a bin is a product of a weight of the row and a weight of the column, and so is whether a
// sampling point is in the image at all. So nothing here knows of both axes.
//
// Everything is counted in 32 bits: host entries check that it can be.
#pragma once

#include <cstdint>

#include "math/scalar_math.h"

namespace handgrad {

// A point between two pixels. `high` weighs `weight`, `low` the rest; `slope` is the derivative of `weight` with
// respect to the point.
template <class C>
struct AxisSample {
  int32_t low, high;
  C weight, slope;
};

// Beyond the first and the last of `size` pixels the image goes on as they are.
template <class C>
HANDGRAD_MATH AxisSample<C> axis_sample(C point, int32_t size) {
  if (point < 0) return {0, 0, C(0), C(0)};
  const int32_t low = static_cast<int32_t>(point);
  if (low >= size - 1) return {size - 1, size - 1, C(0), C(0)};
  return {low, low + 1, point - static_cast<C>(low), C(1)};
}

// Sampling points in a bin that follow from the size of the box: at most this many, however large the box.
inline constexpr int32_t kFinestGrid = 65536;

// Sampling points of a bin along an axis: `sampling_ratio`, or where that is 0 as many as the bin has pixels, rounded
// up; then a bin without an extent has none.
template <class C>
HANDGRAD_MATH int32_t sampling_grid(C bin_size, int32_t sampling_ratio) {
  if (sampling_ratio > 0) return sampling_ratio;
  if (!(bin_size > 0)) return 0;
  if (!(bin_size < static_cast<C>(kFinestGrid))) return kFinestGrid;
  const int32_t whole = static_cast<int32_t>(bin_size);
  return whole + (static_cast<C>(whole) < bin_size);
}

template <class C>
struct BoxAxis {
  // Pixels of the image, bins of the box, and sampling points of each bin. A box without points covers nothing.
  int32_t size, pooled_size, bin_grid;
  C roi_start, bin_size, spatial_scale;
  // NaN, infinite, or infinitely long: every bin is NaN.
  bool is_nonfinite;
  // The length was made 1, and does not follow the coordinates.
  bool is_clamped;

  HANDGRAD_MATH BoxAxis(C first, C second, C spatial_scale, int32_t sampling_ratio, bool aligned, int32_t pooled_size,
                        int32_t size)
      : size(size), pooled_size(pooled_size), spatial_scale(spatial_scale) {
    const C offset = aligned ? C(0.5) : C(0);
    const C roi_end = second * spatial_scale - offset;
    roi_start = first * spatial_scale - offset;
    C roi_length = roi_end - roi_start;
    is_nonfinite = !(roi_length - roi_length == 0);
    is_clamped = !aligned && roi_length < 1;
    if (is_clamped) roi_length = 1;
    bin_size = roi_length / static_cast<C>(pooled_size);
    bin_grid = is_nonfinite ? 0 : sampling_grid(bin_size, sampling_ratio);
  }

  // The share of each sampling point in the average.
  HANDGRAD_MATH C share() const { return C(1) / static_cast<C>(bin_grid); }
  HANDGRAD_MATH C share(int32_t) const { return share(); }

  // Sampling point i of bin p, and its derivatives with respect to the two coordinates.
  HANDGRAD_MATH C point(int32_t p, int32_t i) const {
    return roi_start + static_cast<C>(p) * bin_size +
           (static_cast<C>(i) + C(0.5)) * bin_size / static_cast<C>(bin_grid);
  }
  HANDGRAD_MATH C d_first(int32_t p, int32_t i) const {
    return is_clamped ? spatial_scale : spatial_scale * (1 - along(p, i));
  }
  HANDGRAD_MATH C d_second(int32_t p, int32_t i) const { return is_clamped ? C(0) : spatial_scale * along(p, i); }

  // The points of bin p that are in the image, [begin, end): at most one pixel further out than its pixels' centres.
  HANDGRAD_MATH int32_t begin(int32_t p) const {
    return reached(p, bin_size < 0 ? static_cast<C>(size) : C(-1), false);
  }
  HANDGRAD_MATH int32_t end(int32_t p) const { return reached(p, bin_size < 0 ? C(-1) : static_cast<C>(size), true); }

  // The same of those that touch one pixel.
  HANDGRAD_MATH int32_t begin(int32_t p, int32_t pixel) const {
    return reached(p, bin_size < 0 ? upper(pixel) : lower(pixel), false);
  }
  HANDGRAD_MATH int32_t end(int32_t p, int32_t pixel) const {
    return reached(p, bin_size < 0 ? lower(pixel) : upper(pixel), true);
  }

  // Whether a sampling point touches a pixel.
  HANDGRAD_MATH bool touches(C point, int32_t pixel) const { return point >= lower(pixel) && point <= upper(pixel); }

  // Whether the box may touch one of the pixels [first, last): false only if it does not, with a pixel to spare for
  // rounding.
  HANDGRAD_MATH bool may_touch(int32_t first, int32_t last) const {
    const C roi_end = roi_start + static_cast<C>(pooled_size) * bin_size;
    const C low = bin_size < 0 ? roi_end : roi_start, high = bin_size < 0 ? roi_start : roi_end;
    return bin_grid > 0 && high + 2 >= static_cast<C>(first) && low - 2 < static_cast<C>(last);
  }

  HANDGRAD_MATH AxisSample<C> sample(C point) const { return axis_sample(point, size); }

 private:
  // Which part of the box lies before a sampling point.
  HANDGRAD_MATH C along(int32_t p, int32_t i) const {
    return (static_cast<C>(p) + (static_cast<C>(i) + C(0.5)) / static_cast<C>(bin_grid)) / static_cast<C>(pooled_size);
  }

  // Between these bounds a point touches a pixel.
  HANDGRAD_MATH C lower(int32_t pixel) const { return static_cast<C>(pixel - 1); }
  HANDGRAD_MATH C upper(int32_t pixel) const { return static_cast<C>(pixel + 1); }

  // The first point of bin p that has come to `bound`, or beyond it; bin_grid if none has. Points are in order,
  // whatever their rounding, so that a large grid is not walked through.
  HANDGRAD_MATH int32_t reached(int32_t p, C bound, bool beyond) const {
    int32_t low = 0, high = bin_grid;
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      const C reach = bin_size < 0 ? -point(p, middle) : point(p, middle), wanted = bin_size < 0 ? -bound : bound;
      if (beyond ? reach > wanted : reach >= wanted) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

}  // namespace handgrad
