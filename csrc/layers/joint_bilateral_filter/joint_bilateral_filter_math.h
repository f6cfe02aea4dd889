// The formulas of a bilateral filter. Derivation and notation: docs/layers/joint_bilateral_filter.md.
//
//   y(p) = x(p) + sum over q of w(p, q) (x(q) - x(p)) / D(p),   D(p) = sum over q of w(p, q)
//   w(p, q) = exp(-(a d^2 + b_y t_y^2 + b_x t_x^2)),   t = q - p,   a = 1 / (2 sigma_color^2), …
//   d = sum of |g_k(q) - g_k(p)| (l1), or d^2 = sum of (g_k(q) - g_k(p))^2 (l2)
//
// A weight is the same seen from both of its pixels. So the gradient of a pixel is gathered: from each pixel that it is
// beside, once, in both parts that it has in that pair. N is a number, or a Dual of one for second derivatives.
#pragma once

#include <limits>

#include "math/border.h"
#include "math/dual.h"

namespace handgrad::joint_bilateral_filter {

// ---- functions of both kinds of numbers -----------------------------------------------------------------------------

// The derivative of an absolute value; at 0 it is 0.
template <class C>
HANDGRAD_MATH C sign_of(C x) {
  const C above = x > 0 ? C(1) : C(0), below = x < 0 ? C(1) : C(0);
  return above - below;
}
template <class C>
HANDGRAD_MATH C sign_of(Dual<C> x) {
  return sign_of(x.value);
}
template <class C>
HANDGRAD_MATH C magnitude(C x) {
  return absolute(x);
}
template <class C>
HANDGRAD_MATH Dual<C> magnitude(Dual<C> x) {
  return {absolute(x.value), x.tangent * sign_of(x.value)};
}
template <class C>
HANDGRAD_MATH C weight_of(C exponent) {
  return exp_decay(exponent);
}
// A weight that has vanished has no tangent, however fast it did.
template <class C>
HANDGRAD_MATH Dual<C> weight_of(Dual<C> exponent) {
  const C weight = exp_decay(exponent.value);
  const C tangent = -weight * exponent.tangent;
  return {weight, select(weight == 0, C(0), tangent)};
}

// ---- the distance of two pixels -------------------------------------------------------------------------------------

// What a channel adds to the sum, and d^2 of the sum.
template <bool L1, class N>
HANDGRAD_MATH N contribution(N difference) {
  if constexpr (L1) return magnitude(difference);
  return difference * difference;
}
template <bool L1, class N>
HANDGRAD_MATH N squared(N sum) {
  if constexpr (L1) return sum * sum;
  return sum;
}
// Half the derivative of d^2 with respect to a channel's difference.
template <bool L1, class N>
HANDGRAD_MATH N half_slope(N sum, N difference) {
  if constexpr (L1) return sum * sign_of(difference);
  return difference;
}

// ---- sigma ----------------------------------------------------------------------------------------------------------

// 1 / (2 sigma^2), kept finite, so that pixels that do not differ weigh 1 for a sigma of 0 too.
template <class N>
HANDGRAD_MATH N scale_of(double sigma, double along) {
  using C = Plain<N>;
  constexpr double most = static_cast<double>(std::numeric_limits<C>::max()) / 4;
  const auto kept = [&](double x) { return static_cast<C>(x > most ? most : x < -most ? -most : x); };
  const double inverse = 1 / sigma;
  if constexpr (std::is_same_v<N, C>) {
    return kept(0.5 * inverse * inverse);
  } else {
    // Of a direction that is 0, 0, whatever it is multiplied by.
    const double tangent = along == 0 ? 0.0 : -inverse * inverse * inverse * along;
    return {kept(0.5 * inverse * inverse), kept(tangent)};
  }
}
// The gradient of sigma, of that of its scale; and what it changes by along a direction of sigma.
HANDGRAD_MATH double grad_of_sigma(double grad_scale, double sigma) {
  return grad_scale == 0 ? 0.0 : -grad_scale / (sigma * sigma * sigma);
}
HANDGRAD_MATH double grad_of_sigma_along(double grad_scale, double grad_along, double sigma, double along) {
  const double second = grad_scale == 0 || along == 0 ? 0.0 : 3 * grad_scale * along / (sigma * sigma * sigma * sigma);
  return grad_of_sigma(grad_along, sigma) + second;
}

template <class N>
struct Scales {
  N color, rows, columns;

  HANDGRAD_MATH N space(int32_t down, int32_t right) const {
    using C = Plain<N>;
    const C y = static_cast<C>(down) * static_cast<C>(down), x = static_cast<C>(right) * static_cast<C>(right);
    return rows * y + columns * x;
  }
};

}  // namespace handgrad::joint_bilateral_filter
