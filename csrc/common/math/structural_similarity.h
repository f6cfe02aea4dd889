// Structural similarity of two images in a window, from moments of their sum u and their difference v: the product of
// luminance and contrast, or contrast alone.
#pragma once

#include "math/window_moments.h"

namespace handgrad {

// With the mean and the variance of u and v, 2 mean_x mean_y = (mean_u^2 - mean_v^2) / 2 and so on, the definition is
//
//   luminance = 1 - 2 mean_v^2 / (mean_u^2 + mean_v^2 + 2 c1)
//   contrast = 1 - 2 var_v / (var_u + var_v + 2 c2)
//
// which is 1 to the bit where v is 0, and from -1 to 1 whatever rounding does.
template <class T>
struct StructuralSimilarity {
  static constexpr bool kRotated = true, kCross = false;
  T c1, c2, with_luminance;

  HANDGRAD_MATH StructuralSimilarity(double c1, double c2, bool with_luminance)
      : c1(static_cast<T>(2 * c1)), c2(static_cast<T>(2 * c2)), with_luminance(with_luminance ? T(2) : T(0)) {}

  template <class N>
  HANDGRAD_MATH N value(const WindowMoments<N>& m) const {
    const N part = m.mean_v * m.mean_v / (m.mean_u * m.mean_u + m.mean_v * m.mean_v + c1);
    const N apart = m.var_v / (m.var_u + m.var_v + c2);
    return (T(1) - with_luminance * part) * (T(1) - T(2) * apart);
  }

  template <class N>
  HANDGRAD_MATH WindowMoments<N> slope(const WindowMoments<N>& m) const {
    const N u = m.mean_u, v = m.mean_v;
    const N luminance_scale = T(1) / (u * u + v * v + c1), contrast_scale = T(1) / (m.var_u + m.var_v + c2);
    const N part = v * v * luminance_scale, apart = m.var_v * contrast_scale;
    const N luminance = T(1) - with_luminance * part, contrast = T(1) - T(2) * apart;
    const N of_mean = T(2) * with_luminance * luminance_scale * contrast;
    const N of_variance = T(2) * contrast_scale * luminance;
    return {of_mean * u * part, of_mean * v * (part - T(1)), of_variance * apart, of_variance * (apart - T(1)), N(0)};
  }
};

}  // namespace handgrad
