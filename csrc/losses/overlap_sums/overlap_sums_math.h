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

// What is not counted adds 0, whatever it is. (In bits: a compiler may make a branch of a selection, around the loads
// of x too, and then does not vectorise the loop.)
template <class C>
HANDGRAD_MATH C only(bool counted, C x) {
#if defined(__CUDA_ARCH__)
  return counted ? x : C(0);
#else
  using Bits = typename handgrad::detail::FloatFormat<C>::Bits;
  return handgrad::detail::bits_as<C>(handgrad::detail::bits_as<Bits>(x) & -static_cast<Bits>(counted));
#endif
}

// How an element is counted: of `squared` ones the squares.
template <class C>
struct Measure {
  bool squared;

  HANDGRAD_MATH C value(C x) const { return x * (squared ? x : C(1)); }
  HANDGRAD_MATH C slope(C x) const { return squared ? 2 * x : C(1); }
  HANDGRAD_MATH C curvature() const { return squared ? C(2) : C(0); }

  HANDGRAD_MATH Sums<C> contribution(C p, C t) const { return {p * t, value(p), value(t)}; }
  // The derivative of it along (dp, dt).
  HANDGRAD_MATH Sums<C> moved(C p, C t, C dp, C dt) const { return {dp * t + p * dt, slope(p) * dp, slope(t) * dt}; }

  // The derivatives of the sum of g * contribution with respect to p and to t, and those of these along (dp, dt).
  HANDGRAD_MATH C of_prediction(const Sums<C>& g, C p, C t) const { return g.overlap * t + g.predictions * slope(p); }
  HANDGRAD_MATH C of_target(const Sums<C>& g, C p, C t) const { return g.overlap * p + g.targets * slope(t); }
  HANDGRAD_MATH C of_prediction_moved(const Sums<C>& g, C dp, C dt) const {
    return g.overlap * dt + g.predictions * curvature() * dp;
  }
  HANDGRAD_MATH C of_target_moved(const Sums<C>& g, C dp, C dt) const {
    return g.overlap * dp + g.targets * curvature() * dt;
  }
};

}  // namespace handgrad::overlap_sums
