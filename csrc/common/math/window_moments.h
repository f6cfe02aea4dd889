// Means and (co)variances of two images in a window, for formulas of them, and derivatives from there back to pixels.
//
// A formula takes u and v: both images, or their sum and difference, which it chooses by kRotated. In the sum and the
// difference, what two images have apart does not drown in what they have in common: of identical images v is 0 to the
// bit. Pixels are moved by a constant near them before they are squared, since E[u^2] - E[u]^2 of bright images of low
// contrast would cancel; (co)variances do not change by that, and means get it back.
#pragma once

#include "math/dual.h"

namespace handgrad {

template <class N>
struct WindowMoments {
  N mean_u, mean_v, var_u, var_v, cov;
};

// What is averaged over a window: u, v, u^2, v^2 and, if the formula asks for it, u v.
template <class Formula>
inline constexpr int kWindowAverages = Formula::kCross ? 5 : 4;

// Average `k` of one pixel, and the derivative of it along a direction.
template <class C>
HANDGRAD_MATH C averaged(int k, C u, C v) {
  const C square = k == 2 ? u * u : v * v, plain = k == 0 ? u : v;
  return k == 4 ? u * v : k < 2 ? plain : square;
}
template <class C>
HANDGRAD_MATH C averaged_along(int k, C u, C v, C du, C dv) {
  const C square = k == 2 ? 2 * u * du : 2 * v * dv, plain = k == 0 ? du : dv;
  return k == 4 ? du * v + u * dv : k < 2 ? plain : square;
}

// What rounding leaves of a variance of nothing is not below 0, or a formula would be beyond its bounds. The derivative
// is the variance's all the same.
template <class C>
HANDGRAD_MATH C not_negative(C x) {
  return select(x < 0, C(0), x);
}
template <class C>
HANDGRAD_MATH Dual<C> not_negative(Dual<C> x) {
  return {not_negative(x.value), x.tangent};
}
template <class N>
HANDGRAD_MATH N variance(N mean, N mean_of_squares) {
  return not_negative(mean_of_squares - mean * mean);
}

// a: the averages; moved_u, moved_v: what was taken from each pixel.
template <bool Cross, class N>
HANDGRAD_MATH WindowMoments<N> moments_of(const N (&a)[5], Plain<N> moved_u, Plain<N> moved_v) {
  WindowMoments<N> m{a[0] + moved_u, a[1] + moved_v, variance(a[0], a[2]), variance(a[1], a[3]), N(0)};
  if constexpr (Cross) m.cov = a[4] - a[0] * a[1];
  return m;
}

// From derivatives with respect to moments to those with respect to averages, in place of these.
template <bool Cross, class N>
HANDGRAD_MATH void slopes_of_averages(const WindowMoments<N>& slope, N (&a)[5]) {
  const N u = a[0], v = a[1];
  a[0] = slope.mean_u - Plain<N>(2) * u * slope.var_u;
  a[1] = slope.mean_v - Plain<N>(2) * v * slope.var_v;
  a[2] = slope.var_u, a[3] = slope.var_v;
  if constexpr (Cross) {
    a[0] = a[0] - v * slope.cov;
    a[1] = a[1] - u * slope.cov;
    a[4] = slope.cov;
  }
}

}  // namespace handgrad
