// What one element adds to the sums of its sample and class, and the derivatives of that with respect to its prediction
// and its target. docs/losses/overlap_sums.md derives them.
#pragma once

#include "math/scalar_math.h"

namespace handgrad::overlap_sums {

enum class Activation : int64_t { none = 0, sigmoid = 1, softmax = 2 };

// Of a sample and class: the sums of prediction * target, of predictions, of targets; or what stands beside them, the
// gradients with respect to the three.
template <class C>
struct Sums {
  C overlap, predictions, targets;
};
inline constexpr int64_t kSums = 3;

template <class C>
HANDGRAD_MATH C sigmoid(C x) {
  return 1 / (1 + exp(-x));
}

// How an element is counted: `squared` ones by their squares. What is not counted adds 0, whatever it is.
template <class C>
struct Measure {
  bool squared;

  HANDGRAD_MATH C value(C x) const { return squared ? x * x : x; }
  HANDGRAD_MATH C slope(C x) const { return squared ? 2 * x : C(1); }

  HANDGRAD_MATH Sums<C> contribution(bool counted, C p, C t) const {
    return {counted ? p * t : C(0), counted ? value(p) : C(0), counted ? value(t) : C(0)};
  }
  // The derivative of it along (dp, dt).
  HANDGRAD_MATH Sums<C> moved(bool counted, C p, C t, C dp, C dt) const {
    return {counted ? dp * t + p * dt : C(0), counted ? slope(p) * dp : C(0), counted ? slope(t) * dt : C(0)};
  }

  // The derivatives of the sum of g * contribution with respect to p and to t, and those of these along (dp, dt).
  HANDGRAD_MATH C of_prediction(const Sums<C>& g, bool counted, C p, C t) const {
    return counted ? g.overlap * t + g.predictions * slope(p) : C(0);
  }
  HANDGRAD_MATH C of_target(const Sums<C>& g, bool counted, C p, C t) const {
    return counted ? g.overlap * p + g.targets * slope(t) : C(0);
  }
  HANDGRAD_MATH C of_prediction_moved(const Sums<C>& g, bool counted, C dp, C dt) const {
    return counted ? g.overlap * dt + g.predictions * (squared ? 2 * dp : C(0)) : C(0);
  }
  HANDGRAD_MATH C of_target_moved(const Sums<C>& g, bool counted, C dp, C dt) const {
    return counted ? g.overlap * dp + g.targets * (squared ? 2 * dt : C(0)) : C(0);
  }
};

}  // namespace handgrad::overlap_sums
