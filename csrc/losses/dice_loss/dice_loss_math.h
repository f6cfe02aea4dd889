// The formula of dice loss: docs/losses/dice_loss.md derives it.
#pragma once

#include <tuple>

#include "math/class_sums.h"

namespace handgrad {

struct DiceLoss {
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
    return {2.0 * sums.overlap + smooth, {sums.predictions + sums.targets + smooth, eps}, {2, 0, 0}, {0, 1, 1}};
  }
};

struct DiceLossOp {
  static constexpr const char* name = "dice_loss";
  using Numbers = std::tuple<double, double, bool>;  // smooth, eps, skip_absent
  using Formula = DiceLoss;
};

}  // namespace handgrad
