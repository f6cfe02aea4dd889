// The rows of a matrix of logits on a CUDA device: a block for each, which reads what torch's matmul has made of it and
// writes in its place what the derivatives are products of. What is computed is cpu/pairwise_rows.h's.
//
// In order of appearance: the operands of a kernel; the kernels of rows, of columns, and of sums; of storage.
#pragma once

#include "cuda/access.cuh"
#include "cuda/reduce.cuh"
#include "cuda/row_teams.cuh"
#include "math/pairwise.h"
#include "math/stored.h"

namespace handgrad {

enum class PairwisePass { value, gradient, second_gradient };

// Rows [first, first + count) of one matrix; null: not there, or not asked for.
template <class C>
struct PairwiseRows {
  Pairing pairing;
  const C *scale, *bias, *scale_along, *bias_along;
  const C* gradients;  // of the losses, `gradient_step` apart
  int64_t gradient_step;
  C *peaks, *inverses, *means;  // of columns
  int64_t first, count;
  C *products, *along;                 // [count, columns]
  C *losses, *scale_sums, *bias_sums;  // [rows]

  __device__ static C number(const C* from) { return from ? load(from) : C(0); }

  template <PairwiseLoss Loss>
  __device__ PairElement<C, Loss> element(int64_t row) const {
    PairElement<C, Loss> of{};
    of.scale = number(scale), of.scale_along = number(scale_along);
    of.bias = number(bias), of.bias_along = number(bias_along);
    of.gradient = gradients ? load(gradients + row * gradient_step) : C(0);
    of.peaks = peaks, of.inverses = inverses, of.means = means;
    return of;
  }
};

// One column as PairElement reads columns: element 0 of arrays of one.
template <class C, PairwiseLoss Loss>
struct PairwiseColumn {
  C numbers[4] = {};

  __device__ PairElement<C, Loss> of(const PairElement<C, Loss>& element, const PairwiseRows<C>& rows, int64_t j) {
    PairElement<C, Loss> here = element;
    if constexpr (Loss == PairwiseLoss::both_softmax) {
      numbers[0] = load(rows.gradients + j * rows.gradient_step);
      numbers[1] = load(rows.peaks + j);
      numbers[2] = load(rows.inverses + j);
      numbers[3] = rows.means ? load(rows.means + j) : C(0);
    }
    here.gradients = numbers, here.peaks = numbers + 1, here.inverses = numbers + 2, here.means = numbers + 3;
    return here;
  }
};

// ---- rows -----------------------------------------------------------------------------------------------------------

template <class C, PairwiseLoss Loss, PairwisePass Pass>
class PairwiseRow {
 public:
  __device__ PairwiseRow(const PairwiseRows<C>& rows, RowMeeting<C>& meeting)
      : rows_(rows),
        pairing_(rows.pairing),
        team_{kRowThreads, static_cast<int32_t>(threadIdx.x), meeting},
        row_(rows.first + blockIdx.x),
        self_(pairing_.self(row_)),
        positive_(pairing_.positive(row_)),
        products_(rows.products + static_cast<int64_t>(blockIdx.x) * pairing_.columns),
        along_(kSecond ? rows.along + static_cast<int64_t>(blockIdx.x) * pairing_.columns : nullptr),
        element_(rows.template element<Loss>(row_)) {
    if (pairing_.positives == Positives::same_label) label_ = load(pairing_.labels + row_);
  }

  __device__ void run() {
    find_positives();
    const bool lost = Loss != PairwiseLoss::sigmoid && count_ == 0;
    if (!lost && Loss != PairwiseLoss::sigmoid) find_softmax();
    if constexpr (Pass == PairwisePass::value) {
      store_value(lost);
    } else {
      C mean = 0;
      if constexpr (kSecond) mean = lost ? C(0) : mean_movement();
      element_.row.mean = mean;
      C sums[2] = {0, 0};
      if (lost) {
        clear();
      } else {
        replace(sums);
      }
      team_.sum(sums);
      if (threadIdx.x == 0) store_sums(sums, mean, lost);
    }
  }

 private:
  static constexpr bool kSecond = Pass == PairwisePass::second_gradient;

  template <class Body>
  __device__ void for_each_column(const Body& body) const {
#pragma unroll 1
    for (int64_t j = threadIdx.x; j < pairing_.columns; j += kRowThreads) body(j);
  }
  __device__ bool is_positive(int64_t j) const {
    if (pairing_.positives != Positives::same_label) return j == positive_;
    return load(pairing_.key_labels + j) == label_ && j != self_;
  }

  __device__ void find_positives() {
    C sums[3] = {0, 0, 0};
    for_each_column([&](int64_t j) {
      if (!is_positive(j)) return;
      sums[0] += 1;
      sums[1] += load(products_ + j);
      if constexpr (kSecond) sums[2] += load(along_ + j);
    });
    team_.sum(sums);
    count_ = sums[0], product_ = sums[1], product_along_ = sums[2];
  }
  __device__ void find_softmax() {
    RowPeak<C> peak;
    for_each_column([&](int64_t j) {
      if (j != self_) peak.add(element_.logit(load(products_ + j)), static_cast<int32_t>(j));
    });
    team_.merge(peak);
    element_.row = {peak.largest, 1 / (1 + peak.rest), 0};
  }
  __device__ C mean_movement() const {
    C sums[1] = {0};
    for_each_column([&](int64_t j) {
      if (j == self_) return;
      const C u = load(products_ + j), x = element_.logit(u), moved = element_.moved(u, load(along_ + j));
      if constexpr (Loss == PairwiseLoss::sigmoid) {
        sums[0] += sigmoid(x) * moved;
      } else {
        sums[0] += element_.of_row(x) * moved;
      }
    });
    team_.sum(sums);
    return sums[0];
  }

  __device__ void store_value(bool lost) const {
    C value = 0;
    if constexpr (Loss == PairwiseLoss::sigmoid) {
      C sums[1] = {0};
      for_each_column([&](int64_t j) { sums[0] += softplus(element_.logit(load(products_ + j))); });
      team_.sum(sums);
      value = sums[0] - (element_.scale * product_ + element_.bias * count_);
    } else if (!lost) {
      const C of_row = element_.row.peak - log(element_.row.inverse);
      value = (Loss == PairwiseLoss::both_softmax ? of_row / 2 : of_row) - element_.scale * product_ / count_;
    }
    if (threadIdx.x == 0) store(rows_.losses + row_, value);
  }

  __device__ void clear() const {
    for_each_column([&](int64_t j) {
      store(products_ + j, C(0));
      if constexpr (kSecond) store(along_ + j, C(0));
    });
  }
  // What stands in place of the products, and of their movement.
  __device__ void replace(C (&sums)[2]) const {
    const C part = part_of_positive();
    for_each_column([&](int64_t j) {
      C first = 0, second = 0;
      if (j != self_) {
        PairwiseColumn<C, Loss> column;
        const PairElement<C, Loss> here = column.of(element_, rows_, j);
        const C u = load(products_ + j), x = here.logit(u);
        const C target = is_positive(j) ? part : C(0);
        if constexpr (kSecond) {
          const C u_along = load(along_ + j);
          C weight, movement;
          here.weight_and_movement(x, here.moved(u, u_along), 0, weight, movement);
          weight -= target;
          sums[0] += movement * u + weight * u_along;
          sums[1] += movement;
          first = here.scale * movement + here.scale_along * weight;
          second = here.scale * weight;
        } else {
          const C weight = here.weight(x, 0) - target;
          sums[0] += weight * u;
          sums[1] += weight;
          first = here.scale * weight;
        }
      }
      store(products_ + j, first);
      if constexpr (kSecond) store(along_ + j, second);
    });
  }
  __device__ C part_of_positive() const {
    return Loss == PairwiseLoss::row_softmax ? element_.gradient / count_ : element_.gradient;
  }

  __device__ void store_sums(const C (&sums)[2], C mean, bool lost) const {
    store(rows_.scale_sums + row_, sums[0]);
    store(rows_.bias_sums + row_, sums[1]);
    if constexpr (kSecond) {
      C moved = element_.scale * product_along_ + element_.scale_along * product_;
      if constexpr (Loss == PairwiseLoss::sigmoid) moved += element_.bias_along * count_;
      if constexpr (Loss == PairwiseLoss::row_softmax) moved /= count_;
      if constexpr (Loss == PairwiseLoss::both_softmax) mean = (mean + load(rows_.means + row_)) / 2;
      store(rows_.losses + row_, lost ? C(0) : mean - moved);
    }
  }

  const PairwiseRows<C>& rows_;
  const Pairing& pairing_;
  RowTeam<C> team_;
  int64_t row_, self_, positive_, label_ = 0;
  C *products_, *along_;
  PairElement<C, Loss> element_;
  C count_ = 0, product_ = 0, product_along_ = 0;
};

template <class C, PairwiseLoss Loss, PairwisePass Pass>
__global__ void __launch_bounds__(kRowThreads, kMinBlocks) pairwise_rows_kernel(PairwiseRows<C> rows) {
  HANDGRAD_LAUNCH_BOUNDS(kRowThreads);
  __shared__ RowMeeting<C> meeting;
  PairwiseRow<C, Loss, Pass>(rows, meeting).run();
}

// ---- columns --------------------------------------------------------------------------------------------------------

// The softmaxes of columns go on from chunk to chunk, a thread each; behind the last they are what PairElement reads,
// and half of their logarithms goes to the losses if these are given.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kMinBlocks)
    pairwise_columns_kernel(PairwiseRows<C> rows, bool is_first, bool is_last, C* losses) {
  HANDGRAD_LAUNCH_BOUNDS(kRowThreads);
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (j >= rows.pairing.columns) return;
  const PairElement<C, PairwiseLoss::both_softmax> element = rows.template element<PairwiseLoss::both_softmax>(0);
  C peak = is_first ? -std::numeric_limits<C>::infinity() : load(rows.peaks + j);
  C sum = is_first ? C(0) : load(rows.inverses + j), move = is_first || !rows.means ? C(0) : load(rows.means + j);
#pragma unroll 1
  for (int64_t i = 0; i < rows.count; ++i) {
    const int64_t at = i * rows.pairing.columns + j;
    const C u = load(rows.products + at), x = element.logit(u);
    const C moved = rows.means ? element.moved(u, load(rows.along + at)) : C(0);
    const C power = RowPeak<C>::decay(x, peak);
    const bool larger = x > peak;
    sum = larger ? sum * power + 1 : sum + power;
    move = larger ? move * power + moved : move + power * moved;
    peak = larger ? x : peak;
  }
  store(rows.peaks + j, peak);
  if (is_last && losses) store(losses + j, load(losses + j) + (peak + log(sum)) / 2);
  store(rows.inverses + j, is_last ? 1 / sum : sum);
  if (rows.means) store(rows.means + j, is_last ? move / sum : move);
}

// ---- sums -----------------------------------------------------------------------------------------------------------

// to[b] is the sum of `count` values from b * count on; a block each.
template <class C>
__global__ void __launch_bounds__(kSumThreads, kMinBlocks) pairwise_sum_kernel(const C* values, int64_t count, C* to) {
  HANDGRAD_LAUNCH_BOUNDS(kSumThreads);
  const C* const from = values + static_cast<int64_t>(blockIdx.x) * count;
  double sum = 0;
#pragma unroll 1
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += static_cast<double>(load(from + i));
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) store(to + blockIdx.x, static_cast<C>(sum));
}

// ---- between storage and what is computed in ------------------------------------------------------------------------

// One matrix, [rows, features], as dense rows of C; `forth`: the other way.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kMinBlocks)
    pairwise_widen_kernel(StoredView<const C, 2> from, int64_t count, int64_t features, C* to) {
  HANDGRAD_LAUNCH_BOUNDS(kRowThreads);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (i >= count) return;
  const auto element = from.at(i / features, i % features);
  dispatch_storage<C>(element.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    store(to + i, widen(load(element.template as<T>())));
  });
}
template <class C>
__global__ void __launch_bounds__(kRowThreads, kMinBlocks)
    pairwise_narrow_kernel(const C* from, int64_t count, Stored<C> to) {
  HANDGRAD_LAUNCH_BOUNDS(kRowThreads);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (i >= count) return;
  dispatch_storage<C>(to.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    store((to + i).template as<T>(), narrow<T>(load(from + i)));
  });
}

}  // namespace handgrad
