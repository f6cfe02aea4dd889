// One axis of a filter that raises the rate of samples, filters them and lowers the rate again, all at once: zeros are
// inserted and dropped on paper only.
//
//   out[o] = the sum over i of in[i] h[i up + offset - o down]
//
// where h has `taps` elements and is 0 beyond them. Samples beyond the ends are what the border says. The transposed
// matrix, which the backward needs, is such an axis too, with up and down exchanged; a border that shows samples again
// is then one that gives back what the border got.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad {

enum class FirBorder : int32_t { kZeros, kReflect, kReplicate };

// All of it counts samples of the high rate at most, which the host entries keep below 2^31.
struct FirAxis {
  int32_t in = 0, out = 0;
  int32_t up = 1, down = 1, taps = 1, offset = 0;
  // h[t] is element taps - 1 - t of the filter that was given.
  bool mirrored = false;
  FirBorder border = FirBorder::kZeros;
  bool is_transposed = false;
  // How many samples beyond either end are looked at; 0 if those are zeros.
  int32_t before = 0, after = 0;

  // The first input that output o depends on, and the last. Both may lie beyond the ends.
  HANDGRAD_MATH int32_t first(int32_t o) const { return above(o * down - offset); }
  HANDGRAD_MATH int32_t last(int32_t o) const { return below(o * down - offset + taps - 1); }
  // Where the tap of input i for output o is in h.
  HANDGRAD_MATH int32_t tap(int32_t o, int32_t i) const { return i * up + offset - o * down; }
  HANDGRAD_MATH int32_t filter_index(int32_t t) const { return mirrored ? taps - 1 - t : t; }

  // What stands for input i, which may lie beyond the ends; -1 for a zero.
  HANDGRAD_MATH int32_t shown(int32_t i) const {
    if (i >= 0 && i < in) return i;
    if (is_transposed || border == FirBorder::kZeros) return -1;
    const int32_t nearest = i < 0 ? 0 : in - 1;
    const int32_t seen = border == FirBorder::kReplicate ? nearest : 2 * nearest - i;
    return seen >= 0 && seen < in ? seen : -1;
  }

  // Output o, and those beyond the ends that a transposed border adds to it.
  HANDGRAD_MATH int32_t images(int32_t o) const {
    if (!is_transposed || border == FirBorder::kZeros) return 1;
    if (border == FirBorder::kReplicate) return 1 + (o == 0 ? before : 0) + (o == out - 1 ? after : 0);
    return 1 + (is_seen_before(o) ? 1 : 0) + (is_seen_after(o) ? 1 : 0);
  }
  HANDGRAD_MATH int32_t image(int32_t o, int32_t k) const {
    if (k == 0) return o;
    if (border == FirBorder::kReplicate) return o == 0 && k <= before ? -k : out - 1 + k - (o == 0 ? before : 0);
    return k == 1 && is_seen_before(o) ? -o : 2 * (out - 1) - o;
  }

  // The inputs that outputs [begin, end) depend on.
  HANDGRAD_MATH void range(int32_t begin, int32_t end, int32_t& low, int32_t& high) const {
    const bool gives_back = is_transposed && border != FirBorder::kZeros;
    const int32_t from = gives_back && begin <= before ? -before : begin;
    const int32_t to = gives_back && out - end <= after ? out + after : end;
    low = first(from), high = last(to - 1) + 1;
  }

 private:
  HANDGRAD_MATH bool is_seen_before(int32_t o) const { return o > 0 && o <= before; }
  HANDGRAD_MATH bool is_seen_after(int32_t o) const { return o < out - 1 && out - 1 - o <= after; }
  // x / up, rounded up and down.
  HANDGRAD_MATH int32_t above(int32_t x) const { return x > 0 ? (x - 1) / up + 1 : x / up; }
  HANDGRAD_MATH int32_t below(int32_t x) const { return x < 0 ? (x + 1) / up - 1 : x / up; }
};

// An axis whose first sample of the high rate is `before` positions behind the first of the filter: padding, or, if
// negative, what is cut off.
inline FirAxis fir_axis(int64_t in, int64_t out, int64_t up, int64_t down, int64_t taps, int64_t padding, bool mirrored,
                        FirBorder border = FirBorder::kZeros) {
  FirAxis axis{static_cast<int32_t>(in),
               static_cast<int32_t>(out),
               static_cast<int32_t>(up),
               static_cast<int32_t>(down),
               static_cast<int32_t>(taps),
               static_cast<int32_t>(padding),
               mirrored,
               border};
  if (border != FirBorder::kZeros && out > 0) {
    const int32_t low = axis.first(0), high = axis.last(axis.out - 1);
    axis.before = low < 0 ? -low : 0;
    axis.after = high >= axis.in ? high - (axis.in - 1) : 0;
  }
  return axis;
}

inline FirAxis transposed(FirAxis axis) {
  const FirAxis of = axis;
  axis.in = of.out, axis.out = of.in;
  axis.up = of.down, axis.down = of.up;
  axis.offset = of.taps - 1 - of.offset;
  axis.mirrored = !of.mirrored;
  axis.is_transposed = !of.is_transposed;
  return axis;
}

// Rows and columns of all planes of an image.
struct FirPlanes {
  int64_t batch, channels;
  FirAxis rows, columns;
};

inline FirPlanes transposed(const FirPlanes& planes) {
  return {planes.batch, planes.channels, transposed(planes.rows), transposed(planes.columns)};
}

// body(i, t) for every input i that output o depends on, and its tap.
template <class Body>
HANDGRAD_MATH void for_each_tap(const FirAxis& axis, int32_t o, const Body& body) {
  const int32_t images = axis.images(o);
  for (int32_t k = 0; k < images; ++k) {
    const int32_t image = axis.image(o, k);
    int32_t i = axis.first(image);
    for (int32_t t = axis.tap(image, i); t < axis.taps; t += axis.up, ++i) {
      const int32_t seen = axis.shown(i);
      if (seen >= 0) body(seen, t);
    }
  }
}

}  // namespace handgrad
