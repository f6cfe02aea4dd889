// The error of a prediction in the Lovász-softmax loss, and its derivative. Derivation:
// docs/losses/lovasz_softmax_loss.md.
//
//   e(q) = |q - t|,   t = 1 for foreground
#pragma once

#include <tuple>

#include "abi/macros.h"
#include "cpu/sorted_operands.h"

namespace handgrad {

template <class T>
struct LovaszSoftmaxLoss {
  HANDGRAD_MATH static T error(T prediction, bool foreground) {
    const T difference = prediction - (foreground ? T(1) : T(0));
    return difference < 0 ? -difference : difference;
  }
  // At the kink 0, as torch has it; of NaN NaN.
  HANDGRAD_MATH static T slope(T prediction, bool foreground) {
    const T difference = prediction - (foreground ? T(1) : T(0));
    return difference > 0 ? T(1) : difference < 0 ? T(-1) : difference;
  }
};

// For the kind: kinds/sorted_loss.h.
struct LovaszSoftmaxLossOp {
  static constexpr const char* name = "lovasz_softmax_loss";
  using Numbers = std::tuple<bool, bool>;  // from_logits, skip_absent: as in the schema
  template <class T>
  using Formula = LovaszSoftmaxLoss<T>;

  static void set(SortedProblem& problem, bool from_logits, bool skip_absent) {
    problem.softmax = from_logits;
    problem.skip_absent = skip_absent;
  }
};

}  // namespace handgrad
