// Local normalised cross-correlation: minus the square of the correlation of two images in a window.
#pragma once

#include <tuple>

#include "math/window_moments.h"

namespace handgrad {

// The least variance is eps: below it a window has no contrast to speak of, and the denominator is a constant.
template <class T>
struct LocalNormalizedCrossCorrelationLoss {
  static constexpr bool kRotated = false, kCross = true;
  T eps;

  HANDGRAD_MATH explicit LocalNormalizedCrossCorrelationLoss(double eps) : eps(static_cast<T>(eps)) {}

  // NaN is no least variance.
  template <class N>
  HANDGRAD_MATH N at_least_eps(N variance) const {
    return select(value_of(variance) < eps, N(eps), variance);
  }

  template <class N>
  HANDGRAD_MATH N value(const WindowMoments<N>& m) const {
    return -(m.cov / at_least_eps(m.var_u)) * (m.cov / at_least_eps(m.var_v));
  }

  template <class N>
  HANDGRAD_MATH WindowMoments<N> slope(const WindowMoments<N>& m) const {
    const N of_u = m.cov / at_least_eps(m.var_u), of_v = m.cov / at_least_eps(m.var_v);
    const N u = of_u * of_v / at_least_eps(m.var_u), v = of_u * of_v / at_least_eps(m.var_v);
    const N constant_u = select(value_of(m.var_u) < eps, N(T(0)), u);
    const N constant_v = select(value_of(m.var_v) < eps, N(T(0)), v);
    return {N(T(0)), N(T(0)), constant_u, constant_v, T(-2) * of_u / at_least_eps(m.var_v)};
  }
};

struct LocalNormalizedCrossCorrelationLossOp {
  static constexpr const char* name = "local_normalized_cross_correlation_loss";
  using Numbers = std::tuple<double>;  // eps
  template <class T>
  using Formulas = std::tuple<LocalNormalizedCrossCorrelationLoss<T>>;
};

}  // namespace handgrad
