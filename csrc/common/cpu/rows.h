// Loops over rows of classes on the CPU: the passes of a loss that is a sum over the classes of a row,
//
//   L = sum of a_c g(log p_c),   p = softmax(x),   a_c = weight_c (spread + kept target_c)
//
// given g with its value, slope and curvature (kinds/row_loss.h, where the derivatives are named as here). Nothing is
// kept from pass to pass: each reads the logits once, into arrays that fit the cache, and takes the softmax anew.
//
// A pass of hard targets computes g of one class of a row; RowWorker exists for these and for all others.
#pragma once

#include "cpu/row_arrays.h"

namespace handgrad {

// One thread's work.
template <class C, class Formula, bool Hard>
class RowWorker : RowArrays<C, Hard> {
  using Base = RowArrays<C, Hard>;
  using Base::plan_, Base::tile_, Base::x_, Base::e_, Base::v_, Base::a_, Base::u_;

 public:
  using Index = LaneIndex<C>;

  RowWorker(RowPass pass, const RowViews<C>& rows, const RowPlan& plan, const Formula& formula,
            std::atomic<int64_t>& invalid, double* matrix_sums)
      : Base(rows, plan, &invalid, matrix_sums), pass_(pass), formula_(formula) {}

  // Returns the sum of the losses, or of what the gradients give along the direction.
  double work(const RowRun& run) {
    this->load(pass_, run);
    double total = 0;
    for (int64_t first = 0; first < run.count; first += kRowLanes) {
      if (Hard && pass_ != RowPass::second) {
        this->template begin_tile<false>(run, first);
      } else {
        this->template begin_tile<true>(run, first);
      }
      alignas(kCacheLine) C result[kRowLanes] = {};
      if (pass_ == RowPass::value) {
        value(result);
      } else if (pass_ == RowPass::gradient) {
        gradient();
      } else {
        second(result);
      }
      if (pass_ != RowPass::gradient) total += this->store_losses(run, result);
    }
    this->store(run);
    return total;
  }

 private:
  // body(step's first element, lane, point, whether it is the peak) for every class of every row.
  template <class Body>
  void for_each_class(const C* x, const C* e, const Body& body) const {
    for (int64_t step = 0, i = 0; step < plan_.steps; ++step, i += plan_.stride()) {
      const Index here = static_cast<Index>(step);
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const bool is_peak = here == tile_.peak_step[lane];
        body(i + lane, lane, tile_.softmax(lane).at(tile_.largest[lane] - x[i + lane], e[i + lane], is_peak), is_peak);
      }
    }
  }

  void value(C* losses) {
    if constexpr (Hard) {
      typename Base::Targets targets;
      this->find_targets(targets);
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < this->row_lanes(); ++lane) {
        losses[lane] = targets.scale[lane] * formula_.value(this->point_of(targets, lane));
      }
    } else {
      const C* a = this->at(a_);
      // A class that does not count costs nothing, however impossible it is.
      for_each_class(this->at(x_), this->at(e_), [&](int64_t i, int64_t lane, const ClassPoint<C>& point, bool) {
        losses[lane] += a[i] == 0 ? C(0) : a[i] * formula_.value(point);
      });
      tile_.combine(losses);
    }
  }

  void gradient() {
    if constexpr (Hard) {
      hard_gradient();
    } else {
      soft_gradient();
    }
  }
  void second(C* along) {
    if constexpr (Hard) {
      hard_second(along);
    } else {
      soft_second(along);
    }
  }

  void hard_gradient() {
    typename Base::Targets targets;
    this->find_targets(targets);
    alignas(kCacheLine) C factor[kRowLanes], at_target[kRowLanes];
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < this->row_lanes(); ++lane) {
      const ClassPoint<C> point = this->point_of(targets, lane);
      const C s = targets.grad[lane] * targets.scale[lane] * formula_.slope(point);
      factor[lane] = -s * tile_.inverse[lane];
      at_target[lane] = s * point.q;
    }
    if (plan_.along_classes) std::fill(factor, factor + kRowLanes, C(factor[0]));
    C* __restrict x = this->at(x_);
    const C* __restrict e = this->at(e_);
    for (int64_t step = 0, i = 0; step < plan_.steps; ++step, i += plan_.stride()) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) x[i + lane] = e[i + lane] * factor[lane];
    }
    for (int64_t row = 0; row < tile_.rows; ++row) x[this->element_of_target(row)] = at_target[row];
  }

  void hard_second(C* along) {
    typename Base::Targets targets;
    this->find_targets(targets);
    alignas(kCacheLine) C mean[kRowLanes], s[kRowLanes], r[kRowLanes], v_target[kRowLanes] = {}, at_target[kRowLanes];
    C* __restrict x = this->at(x_), * __restrict v = this->at(v_);
    const C* __restrict e = this->at(e_);
    tile_.centre(e, v, mean);
    for (int64_t row = 0; row < tile_.rows; ++row) v_target[row] = v[this->element_of_target(row)] - mean[row];
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < this->row_lanes(); ++lane) {
      const ClassPoint<C> point = this->point_of(targets, lane);
      const C scale = targets.scale[lane], slope = scale * formula_.slope(point);
      const C bend = scale * formula_.curvature(point) * v_target[lane], grad = targets.grad[lane];
      along[lane] = slope * v_target[lane];
      at_target[lane] = grad * (bend * point.q - point.p * slope * v_target[lane]);
      s[lane] = -grad * slope * tile_.inverse[lane];
      r[lane] = -grad * bend * tile_.inverse[lane];
    }
    if (plan_.along_classes) {
      std::fill(s, s + kRowLanes, C(s[0]));
      std::fill(r, r + kRowLanes, C(r[0]));
    }
    for (int64_t step = 0, i = 0; step < plan_.steps; ++step, i += plan_.stride()) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        x[i + lane] = e[i + lane] * (r[lane] + s[lane] * (v[i + lane] - mean[lane]));
      }
    }
    for (int64_t row = 0; row < tile_.rows; ++row) x[this->element_of_target(row)] = at_target[row];
  }

  // The slopes s to the array x, the losses of classes to a.
  void soft_gradient() {
    alignas(kCacheLine) C grad[kRowLanes];
    this->find_grads(grad);
    C* __restrict x = this->at(x_), * __restrict a = this->at(a_);
    const C* __restrict e = this->at(e_);
    SumAroundPeak<C> s;
    for_each_class(x, e, [&](int64_t i, int64_t lane, const ClassPoint<C>& point, bool is_peak) {
      const C slope = a[i] * formula_.slope(point);
      s.add(lane, slope, is_peak);
      x[i] = slope;
      a[i] = grad[lane] * formula_.value(point);
    });
    s.combine(tile_);
    for (int64_t step = 0, i = 0; step < plan_.steps; ++step, i += plan_.stride()) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const C p = e[i + lane] * tile_.inverse[lane];
        x[i + lane] = grad[lane] * (x[i + lane] - p * (s.others[lane] + s.peak[lane]));
      }
    }
    for (int64_t row = 0; row < tile_.rows; ++row) {
      x[tile_.element(tile_.peak[row], row)] =
          grad[row] * slope_at_peak(this->point_of_peak(row), s.peak[row], s.others[row]);
    }
  }

  // r to the array x, what is left of the direction to v, the gradient of the targets to a.
  void soft_second(C* along) {
    alignas(kCacheLine) C grad[kRowLanes], mean[kRowLanes];
    this->find_grads(grad);
    C* __restrict x = this->at(x_), * __restrict a = this->at(a_), * __restrict v = this->at(v_);
    const C* __restrict e = this->at(e_), * __restrict u = this->at(u_);
    tile_.centre(e, v, mean);
    SumAroundPeak<C> s, r;
    for_each_class(x, e, [&](int64_t i, int64_t lane, const ClassPoint<C>& point, bool is_peak) {
      const C moved = v[i] - mean[lane], slope = formula_.slope(point), bent = a[i] * formula_.curvature(point) * moved;
      const C of_inputs = a[i] * slope, both = bent + u[i] * slope;
      along[lane] += of_inputs * moved + (u[i] == 0 ? C(0) : u[i] * formula_.value(point));
      s.add(lane, of_inputs, is_peak);
      r.add(lane, both, is_peak);
      x[i] = both;
      v[i] = moved;
      a[i] = grad[lane] * slope * moved;
    });
    tile_.combine(along);
    s.combine(tile_);
    r.combine(tile_);
    for (int64_t step = 0, i = 0; step < plan_.steps; ++step, i += plan_.stride()) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const C p = e[i + lane] * tile_.inverse[lane], total = s.others[lane] + s.peak[lane];
        x[i + lane] = grad[lane] * (x[i + lane] - p * (r.others[lane] + r.peak[lane] + total * v[i + lane]));
      }
    }
    for (int64_t row = 0; row < tile_.rows; ++row) {
      const int64_t peak = tile_.element(tile_.peak[row], row);
      const C others = r.others[row] + (s.others[row] + s.peak[row]) * v[peak];
      x[peak] = grad[row] * slope_at_peak(this->point_of_peak(row), r.peak[row], others);
    }
  }

  RowPass pass_;
  const Formula& formula_;
};

namespace detail {

// The sums of all parts, in their order.
template <class C>
void store_matrix(const RowViews<C>& rows, const RowPlan& plan, const std::vector<double>& sums) {
  const int64_t numbers = rows.classes * rows.classes;
  for (int64_t i = 0; i < numbers; ++i) {
    double total = 0;
    for (int64_t part = 0; part < plan.parts; ++part) total += sums[static_cast<size_t>(part * numbers + i)];
    rows.grad_matrix.data[i] = static_cast<C>(total);
  }
}

template <bool Hard, class C, class Formula>
void run_rows(const char* op, RowPass pass, const RowViews<C>& rows, const Formula& formula, C* sum) {
  const RowPlan plan(rows);
  std::atomic<int64_t> invalid(rows.ignore_index);
  std::vector<double> matrix_sums(static_cast<size_t>(rows.grad_matrix ? plan.parts * rows.classes * rows.classes : 0));
  double* const of_matrix = rows.grad_matrix ? matrix_sums.data() : nullptr;
  const double total = sum_over_runs(
      plan, sum != nullptr, [&] { return RowWorker<C, Formula, Hard>(pass, rows, plan, formula, invalid, of_matrix); });
  const int64_t found = invalid;
  HANDGRAD_CHECK(found == rows.ignore_index, op, ": targets must be class numbers, at least 0 and below ", rows.classes,
                 ", the number of classes of inputs, or ignore_index, ", rows.ignore_index, "; got ", found);
  if (sum) *sum = static_cast<C>(total);
  if (rows.grad_matrix) store_matrix(rows, plan, matrix_sums);
}

}  // namespace detail

// What host entries that serve several devices call (kinds/row_loss.h).
struct RowsOnCpu {
  template <class C, class Formula>
  static void for_each_row(const char* op, RowPass pass, const RowOperands& operands, const Formula& formula) {
    if (operands.is_hard()) {
      detail::run_rows<true>(op, pass, RowViews<C>(operands), formula, sum_of<C>(operands));
    } else {
      detail::run_rows<false>(op, pass, RowViews<C>(operands), formula, sum_of<C>(operands));
    }
  }
  // Of an op whose coefficients are a matrix': never hard.
  template <class C, class Formula>
  static void for_each_row_of_matrix(const char* op, RowPass pass, const RowOperands& operands,
                                     const Formula& formula) {
    detail::run_rows<false>(op, pass, RowViews<C>(operands), formula, sum_of<C>(operands));
  }

 private:
  template <class C>
  static C* sum_of(const RowOperands& operands) {
    return operands.sum ? operands.sum->template mutable_data_ptr<C>() : nullptr;
  }
};

}  // namespace handgrad
