// The error of a logit in the Lovász hinge loss, and its derivative. Derivation: docs/losses/lovasz_hinge_loss.md.
//
//   e(x) = 1 - x s,   s = 1 for foreground, -1 for background
#pragma once

#include <tuple>

#include "abi/macros.h"
#include "cpu/sorted_operands.h"

namespace handgrad {

// Errors below 0 are the kind's to leave out.
template <class T>
struct LovaszHingeLoss {
  HANDGRAD_MATH static T error(T logit, bool foreground) { return 1 - (foreground ? logit : -logit); }
  HANDGRAD_MATH static T slope(T, bool foreground) { return foreground ? T(-1) : T(1); }
};

// For the kind: kinds/sorted_loss.h. Of one class, the foreground, whose number is 1.
struct LovaszHingeLossOp {
  static constexpr const char* name = "lovasz_hinge_loss";
  using Numbers = std::tuple<>;
  template <class T>
  using Formula = LovaszHingeLoss<T>;

  static void set(SortedProblem& problem) { problem.first_class = 1; }
};

}  // namespace handgrad
