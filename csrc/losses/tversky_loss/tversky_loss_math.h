// The formula of Tversky loss: docs/losses/tversky_loss.md derives it.
#pragma once

#include <tuple>

#include "math/class_sums.h"

namespace handgrad {

struct TverskyLoss {
  double alpha, beta, smooth, eps;
  bool skip_absent;
  static constexpr bool kTogether = false;

  template <class N>
  HANDGRAD_MATH N value(const ClassSums<N>& sums) const {
    return tversky_score(sums, alpha, beta, smooth, eps).loss();
  }
  template <class N>
  HANDGRAD_MATH ClassSums<N> slope(const ClassSums<N>& sums, const ClassSums<N>&) const {
    return tversky_score(sums, alpha, beta, smooth, eps).slope();
  }
};

struct TverskyLossOp {
  static constexpr const char* name = "tversky_loss";
  using Numbers = std::tuple<double, double, double, double, bool>;  // alpha, beta, smooth, eps, skip_absent
  using Formula = TverskyLoss;
};

}  // namespace handgrad
