// The formulas of a guided filter. Derivation and notation: docs/layers/guided_filter.md.
//
// Means and covariances of a window are merged from those of its parts, twice as many pixels at a time: nothing is
// subtracted that is not a difference of means, so no variance is below 0, and that of equal pixels is 0 to the bit.
//
// In order of appearance: pixels along an axis; moments of two or three parts; a pivot. N is a number, or a Dual of
// one.
#pragma once

#include <limits>

#include "math/border.h"
#include "math/dual.h"

namespace handgrad::guided_filter {

// ---- pixels along an axis -------------------------------------------------------------------------------------------

// Two pixels that one is enlarged from, and what the second weighs.
struct Between {
  int64_t low, high;
  double weight;
};

// An axis of images, and of the smaller ones that windows are moved over: so many pixels are left of it.
struct Axis {
  int64_t full = 1, size = 1;
  int32_t subsample = 1, taps = 1;
  double scale = 1;  // size / full

  static Axis of(int64_t full, int64_t kernel_size, int64_t subsample) {
    const int64_t left = full / subsample, most = subsample < full ? subsample : full;
    // An axis shorter than that keeps one pixel; an empty one none.
    const int64_t size = left > 0 || full == 0 ? left : 1;
    return {full, size, static_cast<int32_t>(subsample < INT32_MAX ? subsample : most),
            static_cast<int32_t>((kernel_size - 1) / subsample + 1),
            full > 0 ? static_cast<double>(size) / static_cast<double>(full) : 1.0};
  }
  // The axis without windows, of all pixels.
  HANDGRAD_MATH Axis whole() const { return {full, full}; }

  // Of an even window, one more pixel is behind its middle.
  HANDGRAD_MATH int32_t before() const { return (taps - 1) / 2; }
  HANDGRAD_MATH int32_t after() const { return taps / 2; }

  // The pixel that is left at index i. kornia's rule: the one nearest to where bilinear enlargement puts it back, less
  // (subsample - 1) / 2.
  HANDGRAD_MATH int64_t pixel(int64_t i) const {
    if (subsample == 1) return i;
    const int64_t doubled = (2 * i + 1) * full + size * (1 - int64_t{subsample});
    const int64_t at = doubled < 0 ? 0 : doubled / (2 * size);
    return at < full ? at : full - 1;
  }
  // The index of pixel y among those that are left, or -1.
  HANDGRAD_MATH int64_t index(int64_t y) const {
    if (subsample == 1) return y;
    // The first that is not before y.
    const int64_t beyond = size * (2 * y + subsample - 1) - full, next = (beyond + 2 * full - 1) / (2 * full);
    const int64_t i = beyond <= 0 ? 0 : next < size ? next : size - 1;
    return pixel(i) == y ? i : -1;
  }

  // Enlargement between pixels, torch's bilinear interpolation with align_corners=False.
  HANDGRAD_MATH Between between(int64_t y) const {
    const double place = (static_cast<double>(y) + 0.5) * scale - 0.5, from = place > 0 ? place : 0.0;
    const int64_t whole = static_cast<int64_t>(from), low = whole < size ? whole : size - 1;
    return {low, low + 1 < size ? low + 1 : low, from - static_cast<double>(low)};
  }
  // What pixel y takes of the one that is left at index i, and the pixels that may take something of it: [first, last).
  HANDGRAD_MATH double part(int64_t y, int64_t i) const {
    const Between two = between(y);
    return (two.low == i ? 1 - two.weight : 0.0) + (two.high == i ? two.weight : 0.0);
  }
  HANDGRAD_MATH int64_t first_of(int64_t i) const {
    const int64_t y = (i - 1) * full / size - 1;
    return i <= 0 || y < 0 ? 0 : y;
  }
  HANDGRAD_MATH int64_t last_of(int64_t i) const {
    const int64_t y = (i + 2) * full / size + 1;
    return i >= size - 1 || y > full ? full : y;
  }
};

// ---- moments of parts -----------------------------------------------------------------------------------------------

// Of two parts of the same size, or of three, of which the one in the middle is smaller; `one` and `many` are what it
// and each of the others weigh.
template <class N>
HANDGRAD_MATH N merged_mean(N a, N b) {
  return a + Plain<N>(0.5) * (b - a);
}
template <class N>
HANDGRAD_MATH N merged_mean(N a, N x, N b, Plain<N> one, Plain<N> many) {
  return a + (one * (x - a) + many * (b - a));
}
// Of covariances c_a, c_b; u and v are differences of the parts' means.
template <class N>
HANDGRAD_MATH N merged_covariance(N c_a, N c_b, N u, N v) {
  return Plain<N>(0.5) * (c_a + c_b) + Plain<N>(0.25) * (u * v);
}
// The sum over all pairs of parts: nothing can cancel. u_x and u_b are differences from the first part.
template <class N>
HANDGRAD_MATH N merged_covariance(N c_a, N c_x, N c_b, N u_x, N v_x, N u_b, N v_b, Plain<N> one, Plain<N> many) {
  const N inner = many * (c_a + c_b) + one * c_x;
  const N beside = u_x * v_x + (u_b - u_x) * (v_b - v_x);
  return inner + many * (one * beside + many * (u_b * v_b));
}

// ---- elimination ----------------------------------------------------------------------------------------------------

// One over a pivot. `whole` is the diagonal before elimination: where rounding has left nothing of it, or there was
// nothing, the channel says no more than those before it, and has no coefficient.
template <class N>
HANDGRAD_MATH N inverse_pivot(N pivot, N whole) {
  using C = Plain<N>;
  constexpr C least = 4 * std::numeric_limits<C>::epsilon();
  const C value = value_of(pivot);
  const bool is_nothing = value <= least * value_of(whole);
  return select(is_nothing, N(0), C(1) / select(is_nothing, N(1), pivot));
}

}  // namespace handgrad::guided_filter
