// The formula of focal Tversky loss: docs/losses/focal_tversky_loss.md derives it.
#pragma once

#include <tuple>

#include "math/class_sums.h"

namespace handgrad {

struct FocalTverskyLoss {
  double alpha, beta, gamma, smooth, eps;
  bool skip_absent;
  static constexpr bool kTogether = false;

  template <class N>
  HANDGRAD_MATH N value(const ClassSums<N>& sums) const {
    return power(tversky_score(sums, alpha, beta, smooth, eps).loss(), gamma);
  }
  template <class N>
  HANDGRAD_MATH ClassSums<N> slope(const ClassSums<N>& sums, const ClassSums<N>&) const {
    const Score<N> score = tversky_score(sums, alpha, beta, smooth, eps);
    const ClassSums<N> slope = score.slope();
    const N outside = gamma * power(score.loss(), gamma - 1);
    return {outside * slope.overlap, outside * slope.predictions, outside * slope.targets};
  }

 private:
  // A perfect score, or what rounding makes of one, has the loss 0 and no slope, where the limit would be infinite.
  HANDGRAD_MATH static double power(double base, double exponent) {
    if (exponent == 0) return 1;
    return base <= 0 ? 0 : pow(base, exponent);
  }
  HANDGRAD_MATH static Dual<double> power(Dual<double> base, double exponent) {
    return {power(base.value, exponent), exponent == 0 ? 0 : exponent * power(base.value, exponent - 1) * base.tangent};
  }
};

struct FocalTverskyLossOp {
  static constexpr const char* name = "focal_tversky_loss";
  // alpha, beta, gamma, smooth, eps, skip_absent
  using Numbers = std::tuple<double, double, double, double, double, bool>;
  using Formula = FocalTverskyLoss;
};

}  // namespace handgrad
