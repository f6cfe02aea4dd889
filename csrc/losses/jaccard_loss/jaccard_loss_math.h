// The formula of Jaccard loss: docs/losses/jaccard_loss.md derives it.
#pragma once

#include <tuple>

#include "math/class_sums.h"

namespace handgrad {

struct JaccardLoss {
  double smooth, eps;
  bool skip_absent;
  static constexpr bool kTogether = false;

  template <class N>
  HANDGRAD_MATH N value(const ClassSums<N>& sums) const {
    return score(sums).loss();
  }
  template <class N>
  HANDGRAD_MATH ClassSums<N> slope(const ClassSums<N>& sums, const ClassSums<N>&) const {
    return score(sums).slope();
  }

 private:
  template <class N>
  HANDGRAD_MATH Score<N> score(const ClassSums<N>& sums) const {
    const N united = sums.predictions + sums.targets - sums.overlap;
    return {sums.overlap + smooth, {united + smooth, eps}, {1, 0, 0}, {-1, 1, 1}};
  }
};

struct JaccardLossOp {
  static constexpr const char* name = "jaccard_loss";
  using Numbers = std::tuple<double, double, bool>;  // smooth, eps, skip_absent
  using Formula = JaccardLoss;
};

}  // namespace handgrad
