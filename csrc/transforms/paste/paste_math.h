// Rectangles of images, one over another: where they are, which of them a pixel shows, and how it is blended.
//
// In order of appearance: sizes; a rectangle, cut off where its source or the output ends; opacities.
#pragma once

#include <cmath>
#include <type_traits>

#include "abi/macros.h"
#include "abi/view.h"
#include "math/dual_steps.h"
#include "math/level.h"

namespace handgrad::paste {

// Rectangles of an image, so that 32 bits say which of them cover a pixel; and their numbers.
inline constexpr int kMostRectangles = 32;
inline constexpr int kNumbers = 8;
inline constexpr int kSources = 4;

// ---- sizes ----------------------------------------------------------------------------------------------------------

struct Frame {
  int64_t batch, channels, out_height, out_width;
  // Images that belong together.
  int64_t group;
  // Rectangles of an image, and how many of them, the uppermost, are blended.
  int32_t rectangles, blended;
  int64_t heights[kSources], widths[kSources];  // 0 of a source that is not there

  HANDGRAD_MATH int32_t opaque() const { return rectangles - blended; }
  // The image that is `shift` further on in the group of image n.
  HANDGRAD_MATH int64_t partner(int64_t n, int64_t shift) const {
    const int64_t first = n / group * group, size = batch - first < group ? batch - first : group;
    const int64_t index = (n - first + shift % size) % size;
    return first + (index < 0 ? index + size : index);
  }
};

// ---- rectangles -----------------------------------------------------------------------------------------------------

struct Rectangle {
  int32_t top, left, bottom, right;  // in the output
  int32_t source;                    // kSources is the fill
  int32_t down, across;              // from the output to the source
  int64_t image;

  HANDGRAD_MATH bool covers(int64_t y, int64_t x) const { return y >= top && y < bottom && x >= left && x < right; }
};

HANDGRAD_MATH int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }
HANDGRAD_MATH int64_t larger_of(int64_t a, int64_t b) { return a < b ? b : a; }
// So that sums of some stay within 64 bits, whatever a table holds.
HANDGRAD_MATH int64_t tamed(int64_t number) {
  constexpr int64_t kFar = int64_t{1} << 40;
  return larger_of(smaller_of(number, kFar), -kFar);
}

// From its numbers, cut off along an axis: [begin, end) of the output, and how far the source is from it.
HANDGRAD_MATH void cut(int64_t begin, int64_t extent, int64_t from, int64_t size, int64_t source_size, int32_t& low,
                       int32_t& high, int32_t& distance) {
  begin = tamed(begin), from = tamed(from);
  const int64_t end = smaller_of(begin + tamed(extent), size), shift = from - begin;
  int64_t first = larger_of(begin, 0), last = end;
  if (source_size >= 0) first = larger_of(first, -shift), last = smaller_of(last, source_size - shift);
  if (last <= first) first = last = 0;
  low = static_cast<int32_t>(first), high = static_cast<int32_t>(last);
  distance = last > first ? static_cast<int32_t>(shift) : 0;
}

// Where the rectangles of all images are: in a tensor, or in a few numbers.
struct RectangleTable {
  View<const int64_t, 3> rectangles;  // [N, R, 8]
  // The numbers of all images, cut to what cut() takes anyway.
  int64_t shared[kMostRectangles * kNumbers];

  HANDGRAD_MATH int64_t number(int64_t n, int r, int k) const {
    return rectangles ? *rectangles.at(n, r, k) : shared[r * kNumbers + k];
  }
  HANDGRAD_MATH Rectangle rectangle(const Frame& frame, int64_t n, int r) const {
    const int64_t source = number(n, r, 4);
    const bool is_image = source >= 0 && source < kSources;
    Rectangle made;
    made.source = is_image ? static_cast<int32_t>(source) : kSources;
    made.image = is_image ? frame.partner(n, number(n, r, 5)) : 0;
    cut(number(n, r, 0), number(n, r, 2), number(n, r, 6), frame.out_height, is_image ? frame.heights[made.source] : -1,
        made.top, made.bottom, made.down);
    cut(number(n, r, 1), number(n, r, 3), number(n, r, 7), frame.out_width, is_image ? frame.widths[made.source] : -1,
        made.left, made.right, made.across);
    return made;
  }
};

// The rectangles that a pixel shows, a bit each, of those that cover it: the uppermost opaque one and those over it.
HANDGRAD_MATH uint32_t shown(uint32_t covering, int32_t opaque) {
  const uint32_t below = opaque >= 32 ? covering : covering & ((uint32_t{1} << opaque) - 1);
  uint32_t last = below;
  while (last & (last - 1)) last &= last - 1;
  return (covering & ~below) | last;
}

// ---- opacities ------------------------------------------------------------------------------------------------------

// An opacity, and what it leaves of what is below: each rounded from double, as torch rounds the numbers of a product.
template <class N>
struct Opacity {
  N own, rest;
};

struct OpacityTable {
  View<const double, 2> opacities, directions;  // [N, K]
  double shared[kMostRectangles];

  // Of blended rectangle k.
  template <class N>
  HANDGRAD_MATH Opacity<N> opacity(int64_t n, int k) const {
    using C = Plain<N>;
    const double own = opacities ? *opacities.at(n, k) : shared[k];
    Opacity<N> made{N(static_cast<C>(own)), N(static_cast<C>(1.0 - own))};
    if constexpr (!std::is_same_v<N, C>) {
      const C along = directions ? static_cast<C>(*directions.at(n, k)) : C(0);
      made.own.tangent = along, made.rest.tangent = -along;
    }
    return made;
  }
};

// A rectangle over what is below.
template <class N>
HANDGRAD_MATH N over(N above, N below, const Opacity<N>& opacity) {
  return product(below, opacity.rest) + product(above, opacity.own);
}

}  // namespace handgrad::paste
