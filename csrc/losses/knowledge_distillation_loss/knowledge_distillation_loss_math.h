// What a class adds to a row's divergence and to its derivatives. Derivation:
// docs/losses/knowledge_distillation_loss.md.
//
// Of a class p is the student's probability, t the teacher's, both at the temperature T, and d = log t - log p:
//
//   L = T^2 sum of t d = T^2 sum of t (d + e^-d - 1)
//
// because t e^-d = p, and the p add up to what the t do. The second form has no negative terms, and does not change
// with a small error that all d have in common.
#pragma once

#include "math/scalar_math.h"

namespace handgrad {

// (d + e^-d - 1) / d^2 in powers of d, to the precision of T for |d| < bound.
template <class T>
struct DivergenceSeries;

template <>
struct DivergenceSeries<float> {
  static constexpr float bound = 0.5f;
  static constexpr float values[] = {1.f / 2, -1.f / 6, 1.f / 24, -1.f / 120, 1.f / 720, -1.f / 5040, 1.f / 40320};
};

template <>
struct DivergenceSeries<double> {
  static constexpr double bound = 0.25;
  static constexpr double values[] = {1. / 2,     -1. / 6,      1. / 24,      -1. / 120,      1. / 720,      -1. / 5040,
                                      1. / 40320, -1. / 362880, 1. / 3628800, -1. / 39916800, 1. / 479001600};
};

// factor * number, and 0 of a class that the teacher rules out, whose number may be infinite or NaN.
template <class T>
HANDGRAD_MATH T counted(T t, T number) {
  return t == 0 ? T(0) : t * number;
}

template <class T>
HANDGRAD_MATH T divergence(T p, T t, T d) {
  using Series = DivergenceSeries<T>;
  const T near = t * (d * d) * detail::polynomial<Series>(d), far = counted(t, d) + (p - t);
  return absolute(d) < Series::bound ? near : far;
}

// The temperature, as kernels have it.
template <class T>
struct Temperature {
  T value, inverse;

  explicit Temperature(double temperature)
      : value(static_cast<T>(temperature)), inverse(static_cast<T>(1 / temperature)) {}
};

}  // namespace handgrad
