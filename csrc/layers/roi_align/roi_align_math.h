// A box along one axis: its bins, the places in them that are looked at, and the pixels beside each place, with
// derivatives by the box's two coordinates on that axis. Derivation: docs/layers/roi_align.md.
//
// What is averaged over a bin is a product of a weight of the row and a weight of the column, and so is whether a place
// is in the image at all. So nothing here knows of both axes.
#pragma once

#include <cstdint>

#include "math/scalar_math.h"

namespace handgrad {

// A place between two pixels. `high` weighs `weight`, `low` the rest; `slope` is how `weight` grows with the place.
template <class C>
struct AxisSample {
  int64_t low, high;
  C weight, slope;
};

template <class C>
struct BoxAxis {
  // Places in a bin that follow from the size of the box: at most this many, however large the box.
  static constexpr int64_t kFinestGrid = 65536;

  // Of the image, in pixels; of the box, in bins; in each bin, in places. A box without places covers nothing.
  int64_t size, bins, grid;
  C start, bin, scale;
  // The coordinates are no numbers of pixels: NaN, infinite, or infinitely far apart.
  bool lost;
  // False where the length does not follow the coordinates, because it was made 1.
  bool grows;

  HANDGRAD_MATH BoxAxis(C first, C second, C scale, int64_t sampling_ratio, bool aligned, int64_t bins, int64_t size)
      : size(size), bins(bins), scale(scale) {
    const C half = aligned ? C(0.5) : C(0);
    const C end = second * scale - half;
    start = first * scale - half;
    C length = end - start;
    lost = !(length - length == 0);
    grows = aligned || !(length < 1);
    if (!grows) length = 1;
    bin = length / static_cast<C>(bins);
    if (lost || (sampling_ratio <= 0 && !(bin > 0))) {
      grid = 0;
    } else if (sampling_ratio > 0) {
      grid = sampling_ratio;
    } else if (bin < static_cast<C>(kFinestGrid)) {
      // Rounded up.
      grid = static_cast<int64_t>(bin);
      grid += static_cast<C>(grid) < bin;
    } else {
      grid = kFinestGrid;
    }
  }

  // The share of each place in the average.
  HANDGRAD_MATH C share() const { return C(1) / static_cast<C>(grid); }

  HANDGRAD_MATH C place(int64_t p, int64_t i) const {
    return start + static_cast<C>(p) * bin + (static_cast<C>(i) + C(0.5)) * bin / static_cast<C>(grid);
  }
  // Derivatives of a place by the two coordinates.
  HANDGRAD_MATH C by_first(int64_t p, int64_t i) const { return grows ? scale * (1 - along(p, i)) : scale; }
  HANDGRAD_MATH C by_second(int64_t p, int64_t i) const { return grows ? scale * along(p, i) : C(0); }

  // The places of bin p that are in the image, [begin, end): at most one pixel further out than its pixels' centres.
  HANDGRAD_MATH int64_t begin(int64_t p) const { return reached(p, bin < 0 ? static_cast<C>(size) : C(-1), false); }
  HANDGRAD_MATH int64_t end(int64_t p) const { return reached(p, bin < 0 ? C(-1) : static_cast<C>(size), true); }

  // The same of those that touch one pixel.
  HANDGRAD_MATH int64_t begin(int64_t p, int64_t pixel) const {
    return reached(p, bin < 0 ? upper(pixel) : lower(pixel), false);
  }
  HANDGRAD_MATH int64_t end(int64_t p, int64_t pixel) const {
    return reached(p, bin < 0 ? lower(pixel) : upper(pixel), true);
  }

  // Whether the box may touch one of the pixels [first, last): false only if it does not, with a pixel to spare for
  // rounding.
  HANDGRAD_MATH bool may_touch(int64_t first, int64_t last) const {
    const C other = start + static_cast<C>(bins) * bin;
    const C low = bin < 0 ? other : start, high = bin < 0 ? start : other;
    return grid > 0 && high + 2 >= static_cast<C>(first) && low - 2 < static_cast<C>(last);
  }

  // Beyond the first and the last pixel the image goes on as they are.
  HANDGRAD_MATH AxisSample<C> sample(C place) const {
    if (place < 0) return {0, 0, C(0), C(0)};
    const int64_t low = static_cast<int64_t>(place);
    if (low >= size - 1) return {size - 1, size - 1, C(0), C(0)};
    return {low, low + 1, place - static_cast<C>(low), C(1)};
  }

 private:
  // Which part of the box lies before a place.
  HANDGRAD_MATH C along(int64_t p, int64_t i) const {
    return (static_cast<C>(p) + (static_cast<C>(i) + C(0.5)) / static_cast<C>(grid)) / static_cast<C>(bins);
  }

  // Between these bounds a place touches a pixel.
  HANDGRAD_MATH C lower(int64_t pixel) const { return static_cast<C>(pixel - 1); }
  HANDGRAD_MATH C upper(int64_t pixel) const { return static_cast<C>(pixel + 1); }

  // The first place of bin p that has come to `bound`, or beyond it; grid if none has. Places are in order, whatever
  // their rounding, so that a large grid is not walked through.
  HANDGRAD_MATH int64_t reached(int64_t p, C bound, bool beyond) const {
    int64_t low = 0, high = grid;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      const C at = bin < 0 ? -place(p, middle) : place(p, middle), wanted = bin < 0 ? -bound : bound;
      if (beyond ? at > wanted : at >= wanted) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

}  // namespace handgrad
