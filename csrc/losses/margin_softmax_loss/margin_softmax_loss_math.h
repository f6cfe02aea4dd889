// Margin softmax loss of one row (docs/losses/margin_softmax_loss.md): the margin of its target, the sum over its other
// classes, and what both make of its loss and of derivatives with respect to cosines. Cosines of other classes are C's;
// what there is one of in each row is computed in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "math/scalar_math.h"

namespace handgrad::margin_softmax_loss {

// ---- the margin -----------------------------------------------------------------------------------------------------

// The logit of a target before it is scaled, and its derivatives with respect to the cosine.
struct MarginPoint {
  double value, slope, curvature;
};

struct Margin {
  double scale, m1, m2, m3;

  // cos(m1 theta + m2) - m3. Beyond pi the cosine goes on decreasing: with a = m1 theta + m2 in [k pi, (k + 1) pi] it
  // is
  // (-1)^k cos a - 2 k. Angles nearer than 4.5e-4 to 0 or pi count as that, where arccos has no finite slope.
  HANDGRAD_MATH MarginPoint at(double cosine) const {
    if (m1 == 1 && m2 == 0) return {cosine - m3, 1, 0};
    constexpr double kLimit = 1 - 1e-7, kPi = 3.14159265358979323846;
    const bool beyond = absolute(cosine) > kLimit;
    const double c = beyond ? (cosine > 0 ? kLimit : -kLimit) : cosine;
    const double sine = square_root((1 - c) * (1 + c)), angle = m1 * ::acos(c) + m2;
    const double k = ::floor(angle / kPi), sign = k - 2 * ::floor(k / 2) == 0 ? 1 : -1;
    const double value = sign * ::cos(angle) - 2 * k - m3, sine_of_angle = sign * ::sin(angle);
    if (beyond) return {value, 0, 0};
    return {value, m1 * sine_of_angle / sine,
            m1 * (sine_of_angle * c / sine - m1 * sign * ::cos(angle)) / (sine * sine)};
  }
};

// ---- the target of a row --------------------------------------------------------------------------------------------

// Rows whose target is no class have one of these for it.
inline constexpr int64_t kIgnored = -1, kNoClass = -2;

struct Target {
  int64_t column;  // of its class and, of that, its nearest centre
  MarginPoint margin;
  double rate;  // how the cosine moves along the directions
};

// ---- the other classes of a row -------------------------------------------------------------------------------------

// The largest cosine, the sum of exp(scale (cosine - largest)), and the same of these times what cosines move by.
struct Others {
  double largest = -std::numeric_limits<double>::infinity(), sum = 0, rates = 0;

  HANDGRAD_MATH void merge(const Others& other, double scale) {
    if (other.sum == 0) return;
    if (sum == 0) {
      *this = other;
      return;
    }
    const double top = other.largest > largest ? other.largest : largest;
    const double mine = exp(scale * (largest - top)), theirs = exp(scale * (other.largest - top));
    sum = sum * mine + other.sum * theirs;
    rates = rates * mine + other.rates * theirs;
    largest = top;
  }
};

// ---- the loss and its derivatives -----------------------------------------------------------------------------------

// log(1 + e^d), d being how far the others' logits, together, are above the target's.
HANDGRAD_MATH double loss_of(const Others& others, const Target& target, double scale) {
  if (others.sum == 0) return 0;
  const double d = scale * (others.largest - target.margin.value) + ::log(others.sum);
  return d > 0 ? d + ::log1p(::exp(-d)) : ::log1p(::exp(d));
}

// How the loss moves along the directions. `missing` is the probability that the target lacks.
HANDGRAD_MATH double rate_of(const Others& others, const Target& target, double loss, double scale) {
  const double missing = -::expm1(-loss);
  const double of_others = others.sum == 0 ? 0 : others.rates / others.sum;
  return missing * scale * (of_others - target.margin.slope * target.rate);
}

// What the derivatives with respect to the cosines of a row are made of.
template <class C>
struct RowSlopes {
  int64_t column = kIgnored;
  C log_sum = 0;      // of all exponentials of logits
  C factor = 0;       // of the others' probabilities
  C target = 0;       // the derivative with respect to the target's cosine
  C target_rate = 0;  // how that moves
  C mean_rate = 0;    // how log_sum moves

  RowSlopes() = default;
  HANDGRAD_MATH RowSlopes(const Target& of, double loss, double loss_rate, double grad, double scale) {
    column = of.column;
    const MarginPoint& margin = of.margin;
    const double factor_of_row = grad * scale, present = ::exp(-loss), missing = -::expm1(-loss);
    log_sum = static_cast<C>(scale * margin.value + loss);
    factor = static_cast<C>(factor_of_row);
    target = static_cast<C>(-factor_of_row * missing * margin.slope);
    target_rate =
        static_cast<C>(-factor_of_row * (margin.curvature * of.rate * missing + margin.slope * present * loss_rate));
    mean_rate = static_cast<C>(loss_rate + scale * margin.slope * of.rate);
  }

  // The probability of another class.
  HANDGRAD_MATH C probability(C cosine, C scale) const {
    const C below = log_sum - scale * cosine;
    // No logit is above all of them, but by rounding. NaN passes.
    return exp_decay(below < 0 ? C(0) : below);
  }
  HANDGRAD_MATH C slope(C cosine, C scale) const { return factor * probability(cosine, scale); }
  HANDGRAD_MATH C slope_rate(C slope, C rate, C scale) const { return slope * (scale * rate - mean_rate); }
};

}  // namespace handgrad::margin_softmax_loss
