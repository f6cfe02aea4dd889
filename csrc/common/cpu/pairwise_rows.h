// The rows of a matrix of logits on the CPU: what a loss of all pairs finds in a row, and what it writes in its place.
//
// Loops go over all columns but the row's own key; what the positives change is put right afterwards, so that no loop
// asks of a pair what it is.
#pragma once

#include <cmath>
#include <limits>

#include "math/pairwise.h"

namespace handgrad {

// body(begin, end) over runs of the row's candidates. A run is short: what is added up in float32 over one goes on in
// double from run to run.
template <class Body>
HANDGRAD_MATH void for_runs(int64_t begin, int64_t end, const Body& body) {
  constexpr int64_t kRun = 1024;
  for (; begin < end; begin += kRun) body(begin, begin + kRun < end ? begin + kRun : end);
}
template <class Body>
HANDGRAD_MATH void for_candidates(const Pairing& pairing, int64_t row, const Body& body) {
  const int64_t self = pairing.self(row);
  if (self < 0) return for_runs(0, pairing.columns, body);
  for_runs(0, self, body);
  for_runs(self + 1, pairing.columns, body);
}

template <class Body>
HANDGRAD_MATH void for_positives(const Pairing& pairing, int64_t row, const Body& body) {
  if (pairing.positives != Positives::same_label) return body(pairing.positive(row));
  const int64_t label = pairing.labels[row], self = pairing.self(row);
  const int64_t* const labels = pairing.key_labels;
  for (int64_t j = 0; j < pairing.columns; ++j) {
    if (labels[j] == label && j != self) [[unlikely]]
      body(j);
  }
}

// Sums over the positives of a row, and how many there are.
template <class C>
struct PositiveSums {
  int64_t count = 0;
  C product = 0, product_along = 0;

  // `along` is null where nothing moves.
  PositiveSums(const Pairing& pairing, int64_t row, const C* products, const C* along) {
    for_positives(pairing, row, [&](int64_t j) {
      ++count;
      product += products[j];
      if (along) product_along += along[j];
    });
  }
};

// The softmax of a row, its mean zero.
template <class C>
PairSoftmax<C> softmax_of_row(const Pairing& pairing, int64_t row, C scale, const C* products) {
  C peak = -std::numeric_limits<C>::infinity();
  double sum = 0;
  for_candidates(pairing, row, [&](int64_t begin, int64_t end) {
#pragma omp simd reduction(max : peak)
    for (int64_t j = begin; j < end; ++j) {
      const C x = scale * products[j];
      peak = x > peak ? x : peak;
    }
  });
  for_candidates(pairing, row, [&](int64_t begin, int64_t end) {
    C of_run = 0;
#pragma omp simd reduction(+ : of_run)
    for (int64_t j = begin; j < end; ++j) of_run += exp_decay(peak - scale * products[j]);
    sum += static_cast<double>(of_run);
  });
  return {peak, static_cast<C>(1 / sum), 0};
}

// How much the loss of a row moves but for its positives: the mean of the logits' movement, weighted by the pairs'
// probabilities.
template <class C, PairwiseLoss Loss>
C mean_movement(PairElement<C, Loss> element, const Pairing& pairing, int64_t row, const C* products, const C* along) {
  double mean = 0;
  for_candidates(pairing, row, [&](int64_t begin, int64_t end) {
    C of_run = 0;
#pragma omp simd reduction(+ : of_run)
    for (int64_t j = begin; j < end; ++j) {
      const C x = element.logit(products[j]);
      if constexpr (Loss == PairwiseLoss::sigmoid) {
        of_run += sigmoid(x) * element.moved(products[j], along[j]);
      } else {
        of_run += element.of_row(x) * element.moved(products[j], along[j]);
      }
    }
    mean += static_cast<double>(of_run);
  });
  return static_cast<C>(mean);
}

// The loss of a row; of both_softmax without half of the column's.
template <class C, PairwiseLoss Loss>
C value_of_row(const PairElement<C, Loss>& element, const Pairing& pairing, int64_t row, const C* products) {
  const PositiveSums<C> positives(pairing, row, products, nullptr);
  if constexpr (Loss == PairwiseLoss::sigmoid) {
    double sum = 0;
    for_candidates(pairing, row, [&, element](int64_t begin, int64_t end) {
      C of_run = 0;
#pragma omp simd reduction(+ : of_run)
      for (int64_t j = begin; j < end; ++j) of_run += softplus(element.logit(products[j]));
      sum += static_cast<double>(of_run);
    });
    return static_cast<C>(sum) - (element.scale * positives.product + element.bias * static_cast<C>(positives.count));
  } else {
    if (positives.count == 0) return 0;
    const PairSoftmax<C> softmax = softmax_of_row(pairing, row, element.scale, products);
    const C of_row = softmax.peak - std::log(softmax.inverse);
    const C of_positives = element.scale * positives.product / static_cast<C>(positives.count);
    return (Loss == PairwiseLoss::both_softmax ? of_row / 2 : of_row) - of_positives;
  }
}

// What a row adds to the gradients of the scale and the bias, and to that of its grad_output.
template <class C>
struct PairRowSums {
  C scale = 0, bias = 0, loss = 0;
};

// How much of a row's gradient each positive takes.
template <class C, PairwiseLoss Loss>
C part_of_positive(const PairElement<C, Loss>& element, int64_t positives) {
  return Loss == PairwiseLoss::row_softmax ? element.gradient / static_cast<C>(positives) : element.gradient;
}

// Scale times the derivative with respect to each logit, in place of the products.
template <class C, PairwiseLoss Loss>
PairRowSums<C> gradient_of_row(PairElement<C, Loss> element, const Pairing& pairing, int64_t row, C* products) {
  const PositiveSums<C> positives(pairing, row, products, nullptr);
  if (Loss != PairwiseLoss::sigmoid && positives.count == 0) {
    std::fill(products, products + pairing.columns, C(0));
    return {};
  }
  if constexpr (Loss != PairwiseLoss::sigmoid) element.row = softmax_of_row(pairing, row, element.scale, products);
  double of_scale = 0, of_bias = 0;
  for_candidates(pairing, row, [&, element](int64_t begin, int64_t end) {
    C scale_of_run = 0, bias_of_run = 0;
#pragma omp simd reduction(+ : scale_of_run, bias_of_run)
    for (int64_t j = begin; j < end; ++j) {
      const C weight = element.weight(element.logit(products[j]), j);
      scale_of_run += weight * products[j];
      bias_of_run += weight;
      products[j] = element.scale * weight;
    }
    of_scale += static_cast<double>(scale_of_run), of_bias += static_cast<double>(bias_of_run);
  });
  if (pairing.self(row) >= 0) products[pairing.self(row)] = 0;
  const C part = part_of_positive(element, positives.count);
  for_positives(pairing, row, [&](int64_t j) { products[j] -= element.scale * part; });
  return {static_cast<C>(of_scale) - part * positives.product,
          static_cast<C>(of_bias) - part * static_cast<C>(positives.count), 0};
}

// In place of the products what multiplies the other side in the second derivatives, and in place of their movement
// what multiplies the other side's direction.
template <class C, PairwiseLoss Loss>
PairRowSums<C> second_gradient_of_row(PairElement<C, Loss> element, const Pairing& pairing, int64_t row, C* products,
                                      C* along) {
  const PositiveSums<C> positives(pairing, row, products, along);
  if (Loss != PairwiseLoss::sigmoid && positives.count == 0) {
    std::fill(products, products + pairing.columns, C(0));
    std::fill(along, along + pairing.columns, C(0));
    return {};
  }
  if constexpr (Loss != PairwiseLoss::sigmoid) element.row = softmax_of_row(pairing, row, element.scale, products);
  element.row.mean = mean_movement(element, pairing, row, products, along);
  double of_scale = 0, of_bias = 0;
  for_candidates(pairing, row, [&, element](int64_t begin, int64_t end) {
    C scale_of_run = 0, bias_of_run = 0;
#pragma omp simd reduction(+ : scale_of_run, bias_of_run)
    for (int64_t j = begin; j < end; ++j) {
      const C u = products[j], u_along = along[j];
      C weight, movement;
      element.weight_and_movement(element.logit(u), element.moved(u, u_along), j, weight, movement);
      scale_of_run += movement * u + weight * u_along;
      bias_of_run += movement;
      products[j] = element.scale * movement + element.scale_along * weight;
      along[j] = element.scale * weight;
    }
    of_scale += static_cast<double>(scale_of_run), of_bias += static_cast<double>(bias_of_run);
  });
  if (pairing.self(row) >= 0) products[pairing.self(row)] = along[pairing.self(row)] = 0;
  const C part = part_of_positive(element, positives.count), count = static_cast<C>(positives.count);
  for_positives(pairing, row, [&](int64_t j) {
    products[j] -= element.scale_along * part;
    along[j] -= element.scale * part;
  });
  C moved = element.scale * positives.product_along + element.scale_along * positives.product;
  if constexpr (Loss == PairwiseLoss::sigmoid) moved += element.bias_along * count;
  if constexpr (Loss == PairwiseLoss::row_softmax) moved /= count;
  const C mean = Loss == PairwiseLoss::both_softmax ? element.row.mean / 2 : element.row.mean;
  return {static_cast<C>(of_scale) - part * positives.product_along, static_cast<C>(of_bias), mean - moved};
}

// The softmaxes of columns, made from one stretch of rows after the other.
template <class C>
struct PairColumns {
  C *peaks, *sums, *moved;  // moved: the sum of movements, weighted as the sum is; null: not asked for

  // Columns [begin, end) of `count` rows, `columns` elements apart.
  template <class Element>
  void add(const Element& given, const C* products, const C* along, int64_t count, int64_t columns, int64_t begin,
           int64_t end) const {
    constexpr int64_t kRun = 64;
    const Element element = given;
    for (int64_t first = begin; first < end; first += kRun) {
      const int64_t run = first + kRun < end ? kRun : end - first;
      C peak[kRun], sum[kRun], move[kRun];
      for (int64_t j = 0; j < run; ++j) peak[j] = peaks[first + j];
      for (int64_t i = 0; i < count; ++i) {
        const C* const u = products + i * columns + first;
        HANDGRAD_SIMD
        for (int64_t j = 0; j < run; ++j) {
          const C x = element.logit(u[j]);
          peak[j] = x > peak[j] ? x : peak[j];
        }
      }
      for (int64_t j = 0; j < run; ++j) {
        const C before = peaks[first + j], power = before == peak[j] ? C(1) : exp_decay(peak[j] - before);
        sum[j] = power * sums[first + j];
        move[j] = moved ? power * moved[first + j] : C(0);
      }
      for (int64_t i = 0; i < count; ++i) {
        const C* const u = products + i * columns + first;
        const C* const u_along = moved ? along + i * columns + first : u;
        HANDGRAD_SIMD
        for (int64_t j = 0; j < run; ++j) {
          const C power = exp_decay(peak[j] - element.logit(u[j]));
          sum[j] += power;
          move[j] += power * element.moved(u[j], u_along[j]);
        }
      }
      for (int64_t j = 0; j < run; ++j) {
        peaks[first + j] = peak[j];
        sums[first + j] = sum[j];
        if (moved) moved[first + j] = move[j];
      }
    }
  }
  // From sums to what PairElement reads: one over them, and means.
  void finish(int64_t columns) const {
    for (int64_t j = 0; j < columns; ++j) {
      sums[j] = 1 / sums[j];
      if (moved) moved[j] *= sums[j];
    }
  }
};

}  // namespace handgrad
