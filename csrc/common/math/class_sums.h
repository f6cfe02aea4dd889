// The sums that overlap losses are made of, and what their formulas have in common.
#pragma once

#include "math/dual.h"

namespace handgrad {

// Of a sample and class: the sums of prediction * target, of predictions, of targets; or derivatives with respect to
// the three.
template <class N>
struct ClassSums {
  N overlap, predictions, targets;
};

// A denominator that is at least `least`; from there on down it is a constant. Whether it is, and the number itself.
template <class N>
struct Denominator {
  bool is_constant;
  N value;

  HANDGRAD_MATH Denominator(N x, double least) : is_constant(value_of(x) < least), value(is_constant ? N(least) : x) {}
};

// 1 - numerator / denominator, the numerator's derivatives and the denominator's being constants: the loss of a score.
template <class N>
struct Score {
  N numerator;
  Denominator<N> denominator;
  ClassSums<double> of_numerator, of_denominator;

  HANDGRAD_MATH N loss() const { return 1.0 - numerator / denominator.value; }
  HANDGRAD_MATH ClassSums<N> slope() const {
    const N inverse = 1.0 / denominator.value;
    const N pull = denominator.is_constant ? N(0.0) : numerator * inverse * inverse;
    return {pull * of_denominator.overlap - inverse * of_numerator.overlap,
            pull * of_denominator.predictions - inverse * of_numerator.predictions,
            pull * of_denominator.targets - inverse * of_numerator.targets};
  }
};

// Tversky's index: false positives count alpha, false negatives beta.
template <class N>
HANDGRAD_MATH Score<N> tversky_score(const ClassSums<N>& sums, double alpha, double beta, double smooth, double eps) {
  const N false_positives = sums.predictions - sums.overlap, false_negatives = sums.targets - sums.overlap;
  return {sums.overlap + smooth,
          {sums.overlap + alpha * false_positives + beta * false_negatives + smooth, eps},
          {1, 0, 0},
          {1 - alpha - beta, alpha, beta}};
}

}  // namespace handgrad
