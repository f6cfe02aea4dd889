// The softmax of a row of logits x, one for each class, as losses of its classes see it.
//
// Of the exponentials e_c = exp(x_c - max x) that of the largest logit, the peak, is 1; `rest` is the sum of the
// others. So log(sum of all) = log(1 + rest), and of the peak, the one class whose probability p may be near 1, neither
// log p nor 1 - p is a difference of almost equal numbers:
//
//   log p = -log(1 + rest),   1 - p = rest / (1 + rest)
#pragma once

#include <limits>

#include "math/log1p.h"

namespace handgrad {

// A class of a row: p, its logarithm, and q = 1 - p, each with all of its digits.
template <class T>
struct ClassPoint {
  T log_p, p, q;

  // For derivatives: at a logit of minus infinity p is 0 and its logarithm infinite; their product has the limit 0,
  // which a merely huge logarithm gives.
  HANDGRAD_MATH T finite_log_p() const {
    constexpr T lowest = std::numeric_limits<T>::lowest();
    return log_p < lowest ? lowest : log_p;
  }
};

// The cross entropy of one class, as a formula (kinds/row_loss.h).
template <class T>
struct ClassCrossEntropy {
  HANDGRAD_MATH T value(const ClassPoint<T>& point) const { return -point.log_p; }
  HANDGRAD_MATH T slope(const ClassPoint<T>&) const { return T(-1); }
  HANDGRAD_MATH T curvature(const ClassPoint<T>&) const { return T(0); }
};

template <class T>
struct SoftmaxRow {
  T rest, log_sum, inverse;

  HANDGRAD_MATH explicit SoftmaxRow(T rest) : rest(rest), log_sum(log1p_positive(rest)), inverse(1 / (1 + rest)) {}
  HANDGRAD_MATH SoftmaxRow(T rest, T log_sum, T inverse) : rest(rest), log_sum(log_sum), inverse(inverse) {}

  // The class whose logit is `below` less than the largest; e = exp(-below).
  HANDGRAD_MATH ClassPoint<T> at(T below, T e, bool is_peak) const {
    const T p = e * inverse;
    return {-(below + log_sum), p, is_peak ? rest * inverse : 1 - p};
  }
};

// The derivative of a row's loss with respect to a logit: of a sum of class losses with slopes s, `total` over all
// classes, it is s - p total, for the peak without a difference of almost equal numbers.
template <class T>
HANDGRAD_MATH T slope_at_peak(const ClassPoint<T>& peak, T s, T total_of_others) {
  return s * peak.q - peak.p * total_of_others;
}

}  // namespace handgrad
