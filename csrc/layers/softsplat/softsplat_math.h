// Where a pixel lands, what it weighs at the four pixels around that point, and what these are divided by, with both
// derivatives. Derivation: docs/layers/softsplat.md.
//
// A pixel of the input is a source, one of the output a target. In order of appearance: modes; Landing and Corner, the
// bilinear weights; Importance, what a source counts; Field, what a target is divided by; the gradients of a source.
#pragma once

#include <cstdint>
#include <limits>

#include "math/scalar_math.h"

namespace handgrad::softsplat {

enum Mode : int32_t { kSum, kAverage, kLinear, kSoftmax };
enum Normalization : int32_t { kAddEps, kZeroEps, kClipEps };

// ---- bilinear weights -----------------------------------------------------------------------------------------------

// The first of the four targets around the point where a source lands, one outside the image at most, and how far
// beyond it the point is. On whole pixels: the derivatives towards larger coordinates.
template <class C>
struct Landing {
  int32_t row, column;
  C down, right;
  // False more than a pixel outside, and of points that are NaN or infinite: nothing lands then.
  bool lands;

  Landing() = default;
  HANDGRAD_MATH Landing(C y, C x, int32_t height, int32_t width) {
    lands = y >= C(-1) && y < static_cast<C>(height) && x >= C(-1) && x < static_cast<C>(width);
    const C from_top = lands ? y : C(0), from_left = lands ? x : C(0);
    const C top = rounded_down(from_top), left = rounded_down(from_left);
    row = static_cast<int32_t>(top), column = static_cast<int32_t>(left);
    down = from_top - top, right = from_left - left;
  }

  // Of corner q = 2 dy + dx; below 0 for none.
  HANDGRAD_MATH int32_t target(int q, int32_t height, int32_t width) const {
    const int32_t y = row + q / 2, x = column + q % 2;
    const bool is_there = lands && y >= 0 && y < height && x >= 0 && x < width;
    return is_there ? y * width + x : -1;
  }
};

// A weight and how it changes with the point; both other second derivatives are 0.
template <class C>
struct Corner {
  C value, along_x, along_y, along_both;

  HANDGRAD_MATH Corner(int q, C down, C right) {
    // Without conditions, which a loop over sources would keep: 1 - down or down, and so on, to the bit.
    const C below = static_cast<C>(q / 2 * 2 - 1), beside = static_cast<C>(q % 2 * 2 - 1);
    const C vertical = static_cast<C>(1 - q / 2) + below * down,
            horizontal = static_cast<C>(1 - q % 2) + beside * right;
    value = vertical * horizontal;
    along_x = vertical * beside, along_y = below * horizontal, along_both = below * beside;
  }
  HANDGRAD_MATH C change(C vx, C vy) const { return vx * along_x + vy * along_y; }
};

// ---- what a source counts -------------------------------------------------------------------------------------------

// With both derivatives with respect to the metric.
template <class C>
struct Importance {
  C value, slope, curvature;

  // `largest` is the largest metric of what lands on the target with a weight, so that exp(metric - largest) is at most
  // 1, for one source at least it is 1, and nothing overflows. A source that lands exactly on a neighbour of the target
  // has no weight there, but a derivative, and may have a larger metric: its exponential is kept finite.
  HANDGRAD_MATH explicit Importance(C power) : value(power), slope(power), curvature(power) {}
  HANDGRAD_MATH Importance(int32_t mode, C metric, C largest) {
    if (mode == kSoftmax) {
      constexpr C most = sizeof(C) == sizeof(double) ? C(1e250) : C(1e25);
      const C power = exp(metric - largest);
      value = slope = curvature = power > most ? most : power;
    } else {
      value = mode == kLinear ? metric : C(1);
      slope = mode == kLinear ? C(1) : C(0);
      curvature = 0;
    }
  }
};

// ---- what a target is divided by ------------------------------------------------------------------------------------

// Sums are those of exp(metric - largest), smaller by a factor than those of exp(metric), and so is eps.
template <class C>
struct Field {
  C largest;
  // 1 / the divisor, and the same where the divisor moves with the sum of weights, otherwise 0.
  C scale, pull;
  // How the scale moves along a direction (Twice only).
  C scale_change;
  // The gradient of the sum of weights, and what the direction adds to it (Twice only).
  C grad_total, grad_total_change;
};

template <class C>
struct Divisor {
  C scale, pull;

  HANDGRAD_MATH Divisor(int32_t mode, int32_t normalization, C eps, C total, C largest) {
    const C small = mode == kSoftmax ? eps * exp(-largest) : eps;
    // Of a weight so small that its inverse is none.
    constexpr C least = std::numeric_limits<C>::min() * 4;
    C divisor = total;
    bool moves = true;
    if (normalization == kAddEps) {
      divisor = total + small;
    } else if (normalization == kZeroEps) {
      moves = total != 0;
      divisor = moves ? total : C(1);
    } else {
      moves = !(total < small);
      divisor = moves ? total : small;
    }
    if (mode != kLinear && divisor < least) divisor = least;
    scale = 1 / divisor;
    pull = moves ? scale : C(0);
  }
};

// Both factors of a difference are scaled first, so that no square of a scale overflows.
template <class C>
HANDGRAD_MATH C scale_change(C scale, C pull, C total_change) {
  return -pull * (scale * total_change);
}
// `dot` is the sum of weights times <gradient of the output, source>, `dot_change` how that moves.
template <class C>
HANDGRAD_MATH C grad_total(C scale, C pull, C dot) {
  return -pull * (scale * dot);
}
template <class C>
HANDGRAD_MATH C grad_total_change(C scale, C pull, C scale_change, C dot, C dot_change) {
  return -pull * (scale * dot_change) - 2 * scale_change * (scale * dot);
}

// ---- a source at a target -------------------------------------------------------------------------------------------

// How far a source moves.
template <class C>
struct Motion {
  C x, y, metric;
};

// What a source is multiplied by on its way to a target, and how that moves.
template <class C>
HANDGRAD_MATH C weight_of(const Corner<C>& corner, const Importance<C>& importance, C scale) {
  return corner.value * importance.value * scale;
}
// How corner times importance moves.
template <class C>
HANDGRAD_MATH C product_change(const Corner<C>& corner, const Importance<C>& importance, const Motion<C>& v) {
  return corner.change(v.x, v.y) * importance.value + corner.value * (importance.slope * v.metric);
}
template <class C>
HANDGRAD_MATH C weight_change(const Corner<C>& corner, const Importance<C>& importance, C scale, C scale_change,
                              const Motion<C>& v) {
  return scale * product_change(corner, importance, v) + scale_change * (corner.value * importance.value);
}

// `dot` is <gradient of the output at the target, source>.
template <class C>
HANDGRAD_MATH void add_gradient(const Corner<C>& corner, const Importance<C>& importance, const Field<C>& field, C dot,
                                Motion<C>& grad) {
  const C pulled = field.scale * dot + field.grad_total, moved = importance.value * pulled;
  grad.x += corner.along_x * moved;
  grad.y += corner.along_y * moved;
  grad.metric += corner.value * (importance.slope * pulled);
}

// What the direction adds; `v_dot` is the same of the source's motion.
template <class C>
HANDGRAD_MATH void add_second_gradient(const Corner<C>& corner, const Importance<C>& importance, const Field<C>& field,
                                       C dot, C v_dot, const Motion<C>& v, Motion<C>& grad) {
  const C pulled = field.scale * dot + field.grad_total;
  const C change = field.scale_change * dot + field.grad_total_change + field.scale * v_dot;
  const C value = importance.value, slope = importance.slope * v.metric;
  grad.x += corner.along_x * (value * change + slope * pulled) + v.y * corner.along_both * (value * pulled);
  grad.y += corner.along_y * (value * change + slope * pulled) + v.x * corner.along_both * (value * pulled);
  grad.metric += corner.value * (importance.slope * change + importance.curvature * v.metric * pulled) +
                 corner.change(v.x, v.y) * (importance.slope * pulled);
}

}  // namespace handgrad::softsplat
