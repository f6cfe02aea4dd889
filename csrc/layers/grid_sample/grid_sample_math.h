// Where a coordinate of a grid falls along one axis of an image, which pixels it lies between and what they weigh, with
// both derivatives with respect to the coordinate. A sample of an image is the product of its axes. Derivation:
// docs/layers/grid_sample.md.
//
// In order of appearance: modes; Axis, what is known before a coordinate is; Spot, where it falls; taps.
#pragma once

#include <cmath>
#include <cstdint>

#include "math/scalar_math.h"

namespace handgrad::grid_sample {

// ---- modes, numbered as torch has them ------------------------------------------------------------------------------

enum Mode : int32_t { kBilinear, kNearest, kBicubic };
enum Padding : int32_t { kZeros, kBorder, kReflection };

// Taps along an axis, at most.
inline constexpr int kMostAxisTaps = 4;

HANDGRAD_MATH float without_fraction(float x) { return truncf(x); }
HANDGRAD_MATH double without_fraction(double x) { return ::trunc(x); }

// ---- an axis --------------------------------------------------------------------------------------------------------

template <class C>
struct Axis {
  C size, last;
  // A coordinate x is the pixel (x + 1) * half - shift.
  C half, shift;
  // What reflects: from `low` on, `span` long.
  C low, span;

  Axis() = default;
  HANDGRAD_MATH Axis(int64_t pixels, bool align_corners)
      : size(static_cast<C>(pixels)),
        last(static_cast<C>(pixels - 1)),
        half((align_corners ? last : size) / 2),
        shift(align_corners ? C(0) : C(0.5)),
        low(align_corners ? C(0) : C(-0.5)),
        span(align_corners ? last : size) {}
};

// A pixel and how it changes with the coordinate that it was made of.
template <class C>
struct Spot {
  C pixel, slope;
};

// NaN becomes the first pixel. What lies at the border or beyond it does not move.
template <class C>
HANDGRAD_MATH Spot<C> clipped(const Axis<C>& axis, Spot<C> at) {
  const C upper = at.pixel < axis.last ? at.pixel : axis.last, slope = at.pixel < axis.last ? at.slope : C(0);
  return {at.pixel > 0 ? upper : C(0), at.pixel > 0 ? slope : C(0)};
}

template <class C>
HANDGRAD_MATH Spot<C> reflected(const Axis<C>& axis, Spot<C> at) {
  // Of one pixel whose centre is both corners there is nothing else.
  if (!(axis.span > 0)) return {C(0), C(0)};
  const C signed_distance = at.pixel - axis.low;
  const bool before = signed_distance < 0;
  const C distance = before ? -signed_distance : signed_distance, period = 2 * axis.span;
  // Whole periods are dropped as floating-point numbers: no integer can overflow.
  const C rest = distance - without_fraction(distance / period) * period;
  const bool back = rest > axis.span;
  const C folded = (back ? period - rest : rest) + axis.low, slope = before ? -at.slope : at.slope;
  return clipped(axis, Spot<C>{folded, back ? -slope : slope});
}

template <class C>
HANDGRAD_MATH Spot<C> padded(const Axis<C>& axis, int32_t padding, Spot<C> at) {
  return padding == kBorder ? clipped(axis, at) : padding == kReflection ? reflected(axis, at) : at;
}

// Where a coordinate of the grid falls. Rounded step by step, so that which pixels it lies between does not depend on
// the processor. Pixels of a bicubic sample are padded one by one, after that.
template <class C>
HANDGRAD_MATH Spot<C> spot_of(const Axis<C>& axis, int32_t mode, int32_t padding, C coordinate) {
  Spot<C> at{rounded_product(coordinate + 1, axis.half) - axis.shift, axis.half};
  // NaN has no slope either, unless padding makes a pixel of it.
  if (at.pixel != at.pixel) at.slope = at.pixel;
  if (mode != kBicubic) return padded(axis, padding, at);
  if (padding == kReflection) return at;
  // Far away all taps are the same; NaN stays.
  const C least = C(-4), most = axis.size + 3;
  at.pixel = at.pixel < least ? least : at.pixel > most ? most : at.pixel;
  return at;
}

// ---- taps -----------------------------------------------------------------------------------------------------------

HANDGRAD_MATH int axis_taps(int32_t mode) { return mode == kNearest ? 1 : mode == kBilinear ? 2 : 4; }

// What the pixel `k` of a spot weighs, and how that changes with the spot, once and twice.
template <class C>
struct TapWeight {
  C value, slope, curvature;
};

// Keys' kernel with -3/4, torch's: by its distance, up to 1 and from 1 to 2. Both are functions of a distance that is
// not negative.
template <class C>
HANDGRAD_MATH TapWeight<C> near_weight(C x) {
  return {(C(1.25) * x - C(2.25)) * x * x + 1, (C(3.75) * x - C(4.5)) * x, C(7.5) * x - C(4.5)};
}
template <class C>
HANDGRAD_MATH TapWeight<C> far_weight(C x) {
  return {((C(-0.75) * x + C(3.75)) * x - C(6)) * x + C(3), (C(-2.25) * x + C(7.5)) * x - C(6), C(-4.5) * x + C(7.5)};
}

template <class C>
struct AxisTap {
  // A whole number; below 0 if it is no pixel of the image.
  C pixel;
  TapWeight<C> weight;
};

// Whole numbers of pixels that are none become -1, however far away, and NaN.
template <class C>
HANDGRAD_MATH C pixel_or_none(const Axis<C>& axis, C pixel) {
  const C upper = pixel <= axis.last ? pixel : C(-1);
  return pixel >= 0 ? upper : C(-1);
}

// The weights are with respect to the coordinate, the spot's slope included.
template <class C>
HANDGRAD_MATH AxisTap<C> nearest_tap(const Axis<C>& axis, Spot<C> at) {
  return {pixel_or_none(axis, rounded_to_even(at.pixel)), {C(1), C(0), C(0)}};
}
template <class C>
HANDGRAD_MATH AxisTap<C> bilinear_tap(const Axis<C>& axis, Spot<C> at, int k) {
  const C low = rounded_down(at.pixel), difference = at.pixel - low;
  // Infinities, whose difference is NaN, are outside; what is NaN by itself stays.
  const C lost = at.pixel == at.pixel ? C(0) : at.pixel;
  const C part = difference == difference ? difference : lost;
  return {pixel_or_none(axis, low + static_cast<C>(k)), {k ? part : 1 - part, k ? at.slope : -at.slope, C(0)}};
}
template <class C>
HANDGRAD_MATH AxisTap<C> bicubic_tap(const Axis<C>& axis, int32_t padding, Spot<C> at, int k) {
  const C low = rounded_down(at.pixel), part = at.pixel - low;
  const Spot<C> pixel = padded(axis, padding, Spot<C>{low + static_cast<C>(k - 1), C(0)});
  const bool left = k < 2;
  const C near = left ? part : 1 - part;
  const TapWeight<C> weight = k == 1 || k == 2 ? near_weight(near) : far_weight(near + 1);
  const C towards = left ? at.slope : -at.slope;
  // Of NaN there is no pixel, whatever it is padded to.
  return {part == part ? pixel_or_none(axis, pixel.pixel) : C(-1),
          {weight.value, weight.slope * towards, weight.curvature * at.slope * at.slope}};
}
template <class C>
HANDGRAD_MATH AxisTap<C> axis_tap(const Axis<C>& axis, int32_t mode, int32_t padding, Spot<C> at, int k) {
  if (mode == kNearest) return nearest_tap(axis, at);
  return mode == kBilinear ? bilinear_tap(axis, at, k) : bicubic_tap(axis, padding, at, k);
}

// ---- a tap of an image ----------------------------------------------------------------------------------------------

// The product of its axes, and how it changes with the three coordinates of the grid; along a direction of these, (vx,
// vy, vz), as much again.
template <class C>
struct TapProduct {
  TapWeight<C> x, y, z;

  HANDGRAD_MATH C value() const { return z.value * y.value * x.value; }
  HANDGRAD_MATH C slope_x() const { return z.value * y.value * x.slope; }
  HANDGRAD_MATH C slope_y() const { return z.value * y.slope * x.value; }
  HANDGRAD_MATH C slope_z() const { return z.slope * y.value * x.value; }

  HANDGRAD_MATH C change(C vx, C vy, C vz) const { return vx * slope_x() + vy * slope_y() + vz * slope_z(); }
  HANDGRAD_MATH C slope_x_change(C vx, C vy, C vz) const {
    return vx * (z.value * y.value * x.curvature) + vy * (z.value * y.slope * x.slope) +
           vz * (z.slope * y.value * x.slope);
  }
  HANDGRAD_MATH C slope_y_change(C vx, C vy, C vz) const {
    return vx * (z.value * y.slope * x.slope) + vy * (z.value * y.curvature * x.value) +
           vz * (z.slope * y.slope * x.value);
  }
  HANDGRAD_MATH C slope_z_change(C vx, C vy, C vz) const {
    return vx * (z.slope * y.value * x.slope) + vy * (z.slope * y.slope * x.value) +
           vz * (z.curvature * y.value * x.value);
  }
};

}  // namespace handgrad::grid_sample
