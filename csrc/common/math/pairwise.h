// What losses of all pairs of queries and keys are made of, pair by pair: which pairs count, and how the loss depends
// on a pair's logit.
//
// The logit of a pair is x = scale u + bias with u the product of the two rows. A loss gives each pair a probability:
// of a softmax over its row, of the mean of that and one over its column, or a sigmoid. Its derivative with respect to
// the logit is then g (probability - target), g being what comes in for the row.
#pragma once

#include <cstdint>

#include "abi/macros.h"
#include "math/scalar_math.h"

namespace handgrad {

enum class PairwiseLoss { row_softmax, both_softmax, sigmoid };
// The key that a query belongs to has its number; or is the other view of the same image, half of the rows away; or
// all keys of the same label are.
enum class Positives { same_index, other_view, same_label };

struct PairRule {
  PairwiseLoss loss;
  Positives positives;
  bool skips_self;  // keys are the queries, and a row's own key is no candidate
};

// Which pairs count, of one matrix of them. Query i is key offset + i, where the keys are the queries of several
// processes.
struct Pairing {
  Positives positives;
  bool skips_self;
  int64_t rows, columns, offset;
  const int64_t *labels, *key_labels;  // of same_label

  // The column of the row's own key, or of its only positive; -1 where there is none.
  HANDGRAD_MATH int64_t self(int64_t row) const { return skips_self ? row + offset : -1; }
  HANDGRAD_MATH int64_t positive(int64_t row) const {
    if (positives == Positives::same_label) return -1;
    if (positives == Positives::same_index) return row + offset;
    const int64_t views = rows / 2;
    return offset + (row < views ? row + views : row - views);
  }
};

// log(1 + e^x), and its slope.
template <class C>
HANDGRAD_MATH C softplus(C x) {
  return (x > 0 ? x : x * 0) + log1p_unit(exp_decay(absolute(x)));
}
template <class C>
HANDGRAD_MATH C sigmoid(C x) {
  const C power = exp_decay(absolute(x));
  const C small = power / (1 + power);
  return x >= 0 ? 1 - small : small;
}

// A softmax: the largest logit, one over the sum of the exponentials, and the mean of the logits' movement.
template <class C>
struct PairSoftmax {
  C peak, inverse, mean;
};

// A row of the matrix. Columns' softmaxes and incoming gradients are read for both_softmax only.
template <class C, PairwiseLoss Loss>
struct PairElement {
  C scale, bias, scale_along, bias_along;
  C gradient;
  PairSoftmax<C> row;
  const C *gradients, *peaks, *inverses, *means;  // of columns

  HANDGRAD_MATH C logit(C u) const {
    if constexpr (Loss == PairwiseLoss::sigmoid) return scale * u + bias;
    return scale * u;
  }
  // How the logit moves, from how the product does.
  HANDGRAD_MATH C moved(C u, C u_along) const {
    const C along = scale * u_along + scale_along * u;
    if constexpr (Loss == PairwiseLoss::sigmoid) return along + bias_along;
    return along;
  }
  HANDGRAD_MATH C of_row(C x) const { return exp_decay(row.peak - x) * row.inverse; }
  HANDGRAD_MATH C of_column(C x, int64_t j) const { return exp_decay(peaks[j] - x) * inverses[j]; }

  // The derivative with respect to the logit of a pair that is no positive.
  HANDGRAD_MATH C weight(C x, [[maybe_unused]] int64_t j) const {
    if constexpr (Loss == PairwiseLoss::sigmoid) return gradient * sigmoid(x);
    if constexpr (Loss == PairwiseLoss::row_softmax) return gradient * of_row(x);
    if constexpr (Loss == PairwiseLoss::both_softmax) {
      return C(0.5) * (gradient * of_row(x) + gradients[j] * of_column(x, j));
    }
  }
  // The same, and how it moves with the logits: the Hessian times their movement.
  HANDGRAD_MATH void weight_and_movement(C x, C along, [[maybe_unused]] int64_t j, C& weight, C& movement) const {
    if constexpr (Loss == PairwiseLoss::sigmoid) {
      const C p = sigmoid(x);
      weight = gradient * p;
      movement = weight * (sigmoid(-x) * along);
    } else if constexpr (Loss == PairwiseLoss::row_softmax) {
      weight = gradient * of_row(x);
      movement = weight * (along - row.mean);
    } else {
      const C of_this_row = C(0.5) * gradient * of_row(x), of_this_column = C(0.5) * gradients[j] * of_column(x, j);
      weight = of_this_row + of_this_column;
      movement = of_this_row * (along - row.mean) + of_this_column * (along - means[j]);
    }
  }
};

}  // namespace handgrad
