// What one thread has of a run of rows while it works on them (cpu/rows.h): the arrays of a tile's classes, and what
// belongs to each row. Nothing here knows a formula.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "cpu/row_tiles.h"

namespace handgrad {

// Hard: only the class that is the target has a loss.
template <class C, bool Hard>
class RowArrays {
 public:
  using Index = LaneIndex<C>;

  // `invalid` gets a class number that is none; without it there are none.
  RowArrays(const RowViews<C>& rows, const RowPlan& plan, std::atomic<int64_t>* invalid, double* matrix_sums = nullptr)
      : rows_(rows),
        plan_(plan),
        tile_(plan),
        invalid_(invalid),
        matrix_sums_(matrix_sums),
        target_(static_cast<size_t>(plan.pitch)),
        scale_(static_cast<size_t>(plan.pitch)),
        grad_(static_cast<size_t>(plan.pitch)) {
    constexpr int64_t arrays = Hard ? 3 : 5;
    const int64_t room = (plan.elements() + 63) / 64 * 64;
    memory_.resize(static_cast<size_t>(arrays * room));
    C** const pointers[] = {&x_, &e_, &v_, &a_, &u_};
    for (int64_t k = 0; k < arrays; ++k) *pointers[k] = memory_.data() + k * room;
  }

 protected:
  // ---- between memory and the arrays --------------------------------------------------------------------------------

  [[gnu::noinline]] void load(RowPass pass, const RowRun& run) {
    load_rows(plan_, rows_.inputs, run, -std::numeric_limits<C>::infinity(), x_);
    load_targets(run);
    if (pass == RowPass::value) return;
    load_grads(run);
    if (pass == RowPass::gradient) return;
    load_direction(rows_.direction_inputs, run, v_);
    if constexpr (!Hard) {
      if (rows_.direction_matrix) {
        look_up(rows_.direction_matrix, run, u_);
      } else {
        load_direction(rows_.direction_targets, run, u_);
        weigh_rows(plan_, rows_.weight, C(0), rows_.kept, u_);
      }
    }
  }

  void load_targets(const RowRun& run) {
    if constexpr (!Hard) {
      if (!rows_.indices) {
        std::fill(target_.begin(), target_.end(), Index(0));
        load_rows(plan_, rows_.probabilities, run, C(0), a_);
      } else {
        std::fill(a_, a_ + plan_.elements(), C(0));
      }
    }
    if (rows_.indices) load_indices(run);
    if constexpr (!Hard) {
      if (rows_.matrix) return look_up(rows_.matrix, run, a_);
    }
    if constexpr (!Hard) weigh_rows(plan_, rows_.weight, rows_.spread, rows_.kept, a_);
  }

  // The gradients, where they are asked for.
  [[gnu::noinline]] void store(const RowRun& run) {
    if (rows_.grad_inputs) store_rows(plan_, x_, run, rows_.grad_inputs);
    if constexpr (!Hard) {
      if (rows_.grad_targets) {
        weigh_rows(plan_, rows_.weight, C(0), rows_.kept, a_);
        store_rows(plan_, a_, run, rows_.grad_targets);
      }
      if (matrix_sums_) add_to_matrix(run);
    }
  }

  // Each row's row of a matrix; zeros of one that does not count.
  void look_up(const View<const C, 2>& matrix, const RowRun& run, C* to) const {
    for (int64_t row = 0; row < run.count; ++row) {
      const Index target = target_[static_cast<size_t>(row)];
      const C* from = matrix.at(std::max(Index(0), target), 0);
      for (int64_t c = 0; c < plan_.classes; ++c) to[tile_.element(c, row)] = target < 0 ? C(0) : from[c];
    }
  }
  // The reverse: what each row adds to the gradient of the matrix, from the array of coefficients.
  void add_to_matrix(const RowRun& run) const {
    double* const sums = matrix_sums_ + run.part * plan_.classes * plan_.classes;
    for (int64_t row = 0; row < run.count; ++row) {
      const Index target = target_[static_cast<size_t>(row)];
      if (target < 0) continue;
      double* to = sums + target * plan_.classes;
      for (int64_t c = 0; c < plan_.classes; ++c) to[c] += static_cast<double>(a_[tile_.element(c, row)]);
    }
  }

  // Of a row that does not count the target is -1, and its logits, which may be NaN, are 0.
  void load_indices(const RowRun& run) {
    const int64_t* const from = rows_.indices.at(run.sample, run.first);
    const int64_t step = rows_.indices.strides[1], ignore_index = rows_.ignore_index, classes = rows_.classes;
    Index* __restrict const target = target_.data();
    const auto take = [&](int64_t row, int64_t index) {
      const bool counts = (index != ignore_index) & (index >= 0) & (index < classes);
      target[row] = counts ? static_cast<Index>(index) : Index(-1);
      return counts ? Index(0) : Index(1);
    };
    Index left_out = 0;
    if (step == 1) {
#pragma omp simd reduction(+ : left_out)
      for (int64_t row = 0; row < run.count; ++row) left_out += take(row, from[row]);
    } else {
      for (int64_t row = 0; row < run.count; ++row) left_out += take(row, from[row * step]);
    }
    if (left_out > 0) leave_out(run);
    if (Hard && !rows_.weight) std::fill(scale_.begin(), scale_.end(), C(1));
    for (int64_t row = 0; row < run.count; ++row) {
      const int64_t index = std::max(Index(0), target[row]);
      if (Hard && rows_.weight) scale_[static_cast<size_t>(row)] = *rows_.weight.at(index);
      if (!Hard && target[row] >= 0 && !rows_.matrix) a_[tile_.element(index, row)] = 1;
    }
  }
  void leave_out(const RowRun& run) {
    for (int64_t row = 0; row < run.count; ++row) {
      if (target_[static_cast<size_t>(row)] >= 0) continue;
      const int64_t index = *rows_.indices.at(run.sample, run.first + row);
      if (index != rows_.ignore_index && invalid_) invalid_->store(index, std::memory_order_relaxed);
      for (int64_t c = 0; c < plan_.classes; ++c) x_[tile_.element(c, row)] = 0;
    }
  }

  void load_grads(const RowRun& run) {
    const C* const from = rows_.grad_output ? rows_.grad_output.at(run.sample, run.first) : nullptr;
    const int64_t step = rows_.grad_output.strides[1];
    const Index* __restrict const target = target_.data();
    C* __restrict const grad = grad_.data();
    if (!from || step == 0) {
      const C all = from ? *from : C(0);
      HANDGRAD_SIMD
      for (int64_t row = 0; row < run.count; ++row) grad[row] = target[row] >= 0 ? all : C(0);
    } else {
      for (int64_t row = 0; row < run.count; ++row) grad[row] = target[row] >= 0 ? from[row * step] : C(0);
    }
  }

  void load_direction(const StoredView<const C, 3>& direction, const RowRun& run, C* to) {
    if (direction) {
      load_rows(plan_, direction, run, C(0), to);
    } else {
      std::fill(to, to + plan_.elements(), C(0));
    }
  }

  // Writes the losses of a tile, and returns their sum.
  double store_losses(const RowRun& run, const C* losses) {
    alignas(kCacheLine) double counted[kRowLanes];
    const Index* const target = target_.data() + tile_.first;
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < kRowLanes; ++lane) {
      counted[lane] = (lane < tile_.rows) & (target[lane] >= 0) ? static_cast<double>(losses[lane]) : 0.0;
    }
    for (int64_t row = 0; rows_.loss && row < tile_.rows; ++row) {
      *rows_.loss.at(run.sample, run.first + tile_.first + row) = static_cast<C>(counted[row]);
    }
    return folded(counted, [](double a, double b) { return a + b; });
  }

  // ---- a tile -------------------------------------------------------------------------------------------------------

  template <bool FindPeak>
  [[gnu::noinline]] void begin_tile(const RowRun& run, int64_t first) {
    tile_.first = first;
    tile_.rows = std::min(kRowLanes, run.count - first);
    fetch_tile<false>(plan_, rows_.inputs, run.sample, run.first + run.count + first);
    if constexpr (!Hard) fetch_tile<false>(plan_, rows_.probabilities, run.sample, run.first + run.count + first);
    fetch_tile<true>(plan_, rows_.grad_inputs, run.sample, run.first + first);
    tile_.find_largest(at(x_));
    tile_.template take_exponentials<FindPeak>(at(x_), at(e_));
  }

  C* at(C* array) const { return std::assume_aligned<kCacheLine>(array + tile_.offset()); }
  Index target(int64_t row) const { return target_[static_cast<size_t>(tile_.first + row)]; }
  int64_t element_of_target(int64_t row) const { return tile_.element(std::max(Index(0), target(row)), row); }
  // Lanes that a loop over rows goes over.
  int64_t row_lanes() const { return plan_.along_classes ? 1 : kRowLanes; }
  // The gradient of the loss of a lane's row.
  void find_grads(C* lanes) const { spread_over_lanes(grad_, lanes); }

  // The class that is the target of each row.
  struct Targets {
    alignas(kCacheLine) C below[kRowLanes], e[kRowLanes], scale[kRowLanes], grad[kRowLanes];
  };
  [[gnu::noinline]] void find_targets(Targets& targets) const {
    spread_over_lanes(scale_, targets.scale);
    spread_over_lanes(grad_, targets.grad);
    const C* __restrict const x = at(x_), * __restrict const e = at(e_);
    const Index* const target = target_.data() + tile_.first;
    const Index pitch = plan_.along_classes ? 1 : static_cast<Index>(plan_.pitch);
    HANDGRAD_SIMD
    for (int64_t row = 0; row < row_lanes(); ++row) {
      const Index element = std::max(Index(0), target[row]) * pitch + static_cast<Index>(row);
      targets.below[row] = tile_.largest[row] - x[element];
      targets.e[row] = e[element];
    }
  }
  ClassPoint<C> point_of(const Targets& targets, int64_t lane) const {
    return tile_.softmax(lane).at(targets.below[lane], targets.e[lane], targets.below[lane] == 0);
  }
  ClassPoint<C> point_of_peak(int64_t row) const { return tile_.softmax(row).at(C(0), C(1), true); }

  const RowViews<C>& rows_;
  const RowPlan& plan_;
  RowTile<C> tile_;
  // The arrays of logits, exponentials, the direction of the logits; of coefficients a_c, the direction of the targets.
  C *x_ = nullptr, *e_ = nullptr, *v_ = nullptr, *a_ = nullptr, *u_ = nullptr;

 private:
  std::atomic<int64_t>* invalid_;
  double* matrix_sums_;
  // Of the rows of a run: the class, -1 for none; its weight; the gradient of the loss.
  std::vector<Index> target_;
  ScratchVector<C> scale_, grad_;
  ScratchVector<C> memory_;

  void spread_over_lanes(const ScratchVector<C>& from, C* lanes) const {
    const C* first = from.data() + tile_.first;
    if (plan_.along_classes) {
      std::fill(lanes, lanes + kRowLanes, C(*first));
    } else {
      std::copy(first, first + kRowLanes, lanes);
    }
  }
};

}  // namespace handgrad
