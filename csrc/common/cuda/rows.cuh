// Loops over rows of classes on the device, the counterpart of cpu/rows.h: a kernel for each pass of a loss, for hard
// targets and for all others.
//
// A team (row_teams.cuh) reads the logits of its row once, and keeps them in shared memory for what is written: each
// thread its own, so that nobody waits. Where a row is too long for that, it is read again. Of targets that are no
// class numbers the coefficients are read as often as they are needed, from a cache as a rule.
//
// A class number that is none gives NaN, in the loss of its row and in its gradients: nothing waits for the device in
// order to raise an error.
#pragma once

#include <string>

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/row_matrix.cuh"

namespace handgrad {

// Blocks of a sum: the same on every device, so that the order of its terms is too.
inline constexpr int64_t kRowSumBlocks = 1024;

// The passes of one row, by the threads that share it. value and second return what the row adds to the loss, or to
// what its gradients give along the direction, in every thread.
template <class C, class AnyFormula, bool Hard>
struct RowPasses {
  using Formula = AnyFormula;
  using Share = RowShare<C, Hard>;
  // Arrays of shared memory, one number for each class: the logits, and their direction. A loss of class numbers needs
  // neither twice.
  static constexpr int64_t arrays(RowPass pass) {
    return pass == RowPass::second ? 2 : Hard && pass == RowPass::value ? 0 : 1;
  }

  Share& share;
  const Formula& formula;

  __device__ C value() const {
    share.read_logits(!Hard);
    const SoftmaxRow<C> row(share.peak.rest);
    C loss[1];
    if constexpr (Hard) {
      loss[0] = share.x_target;
      share.team.sum(loss);
      loss[0] = share.weight_target * formula.value(point_of_target(row, loss[0]));
    } else {
      loss[0] = 0;
      share.for_each_class([&](int32_t c, int32_t, C below, C e) {
        const C a = share.coefficient(c, share.weight(c));
        // A class that does not count costs nothing, however impossible it is.
        loss[0] += a == 0 ? C(0) : a * formula.value(row.at(below, e, c == share.peak.index));
      });
      share.team.sum(loss);
    }
    return share.of_row(loss[0]);
  }

  __device__ void gradient() const {
    const C grad = share.grad_output();
    share.read_logits(true);
    const SoftmaxRow<C> row(share.peak.rest);
    if constexpr (Hard) {
      C x_target[1] = {share.x_target};
      share.team.sum(x_target);
      const ClassPoint<C> point = point_of_target(row, x_target[0]);
      const C s = grad * share.weight_target * formula.slope(point), factor = -s * row.inverse;
      share.for_each_class([&](int32_t c, int32_t, C, C e) {
        share.store_grad_inputs(c, c == share.target ? s * point.q : e * factor);
      });
    } else {
      soft_gradient(grad, row);
    }
  }

  __device__ C second() const {
    const C grad = share.grad_output();
    share.read_logits(true);
    const SoftmaxRow<C> row(share.peak.rest);
    const C of_peak = share.direction_of_peak();
    if constexpr (Hard) {
      return hard_second(grad, row, of_peak);
    } else {
      return soft_second(grad, row, of_peak);
    }
  }

 private:
  __device__ ClassPoint<C> point_of_target(const SoftmaxRow<C>& row, C x) const {
    const C below = share.peak.largest - x;
    return row.at(below, exp_decay(below), share.target == share.peak.index);
  }

  __device__ C hard_second(C grad, const SoftmaxRow<C>& row, C of_peak) const {
    // The mean of the direction, its value at the target, and the target's logit.
    C sums[3] = {0, 0, share.x_target};
    share.for_each_class([&](int32_t c, int32_t k, C, C e) {
      const C v = share.read_direction(c, of_peak);
      share.keep_direction(k, v);
      sums[0] += e * v;
      if (c == share.target) sums[1] = v;
    });
    share.team.sum(sums);
    const C mean = sums[0] * row.inverse, moved = sums[1] - mean;
    const ClassPoint<C> point = point_of_target(row, sums[2]);
    const C slope = share.weight_target * formula.slope(point);
    const C bend = share.weight_target * formula.curvature(point) * moved;
    const C s = -grad * slope * row.inverse, r = -grad * bend * row.inverse;
    const C at_target = grad * (bend * point.q - point.p * slope * moved);
    if (share.rows.grad_inputs) {
      share.for_each_class([&](int32_t c, int32_t k, C, C e) {
        const C v = share.direction(c, k, of_peak);
        share.store_grad_inputs(c, c == share.target ? at_target : e * (r + s * (v - mean)));
      });
    }
    return share.of_row(slope * moved);
  }

  __device__ void soft_gradient(C grad, const SoftmaxRow<C>& row) const {
    share.store_marks(share.peak.largest, row.log_sum);
    // The slopes of all classes but the peak, and the peak's.
    C sums[2] = {0, 0};
    share.for_each_class([&](int32_t c, int32_t, C below, C e) {
      const bool is_peak = c == share.peak.index;
      const C slope = share.coefficient(c, share.weight(c)) * formula.slope(row.at(below, e, is_peak));
      sums[0] += is_peak ? C(0) : slope;
      sums[1] += is_peak ? slope : C(0);
    });
    share.team.sum(sums);
    share.for_each_class([&](int32_t c, int32_t, C below, C e) {
      const bool is_peak = c == share.peak.index;
      const ClassPoint<C> point = row.at(below, e, is_peak);
      const C weight = share.weight(c), slope = share.coefficient(c, weight) * formula.slope(point);
      share.store_grad_inputs(
          c, grad * (is_peak ? slope_at_peak(point, slope, sums[0]) : slope - point.p * (sums[0] + sums[1])));
      share.store_grad_targets(c, weight * share.rows.kept * grad * formula.value(point));
    });
  }

  __device__ C soft_second(C grad, const SoftmaxRow<C>& row, C of_peak) const {
    C centre[1] = {0};
    share.for_each_class([&](int32_t c, int32_t k, C, C e) {
      const C v = share.read_direction(c, of_peak);
      share.keep_direction(k, v);
      centre[0] += e * v;
    });
    share.team.sum(centre);
    const C mean = centre[0] * row.inverse;
    share.store_marks(of_peak, mean);
    // What the gradients give along the direction; then s and r, as soft_gradient has its sums.
    C sums[5] = {0, 0, 0, 0, 0};
    share.for_each_class([&](int32_t c, int32_t k, C below, C e) {
      const bool is_peak = c == share.peak.index;
      const ClassPoint<C> point = row.at(below, e, is_peak);
      const C moved = share.direction(c, k, of_peak) - mean, weight = share.weight(c);
      const C a = share.coefficient(c, weight), u = share.read_direction_of_target(c, weight);
      const C slope = formula.slope(point), s = a * slope, r = a * formula.curvature(point) * moved + u * slope;
      sums[0] += s * moved + (u == 0 ? C(0) : u * formula.value(point));
      sums[1] += is_peak ? C(0) : s;
      sums[2] += is_peak ? s : C(0);
      sums[3] += is_peak ? C(0) : r;
      sums[4] += is_peak ? r : C(0);
    });
    share.team.sum(sums);
    const C total = sums[1] + sums[2];
    if (share.rows.grad_inputs || share.rows.grad_targets) {
      share.for_each_class([&](int32_t c, int32_t k, C below, C e) {
        const bool is_peak = c == share.peak.index;
        const ClassPoint<C> point = row.at(below, e, is_peak);
        const C moved = share.direction(c, k, of_peak) - mean, weight = share.weight(c);
        const C slope = formula.slope(point), u = share.read_direction_of_target(c, weight);
        const C r = share.coefficient(c, weight) * formula.curvature(point) * moved + u * slope;
        share.store_grad_inputs(c, grad * (is_peak ? slope_at_peak(point, r, sums[3] + total * moved)
                                                   : r - point.p * (sums[3] + sums[4] + total * moved)));
        share.store_grad_targets(c, weight * share.rows.kept * grad * slope * moved);
      });
    }
    return share.of_row(sums[0]);
  }
};

// Passes is RowPasses, or has what that has.
template <class C, class Passes, RowPass Pass>
__global__ void __launch_bounds__(kRowThreads, kMinBlocks)
    rows_kernel(RowViews<C> rows, RowCut cut, typename Passes::Formula formula) {
  HANDGRAD_LAUNCH_BOUNDS(kRowThreads);
  HANDGRAD_DYNAMIC_SHARED(C, memory);
  __shared__ RowMeeting<C> meeting;
  const int64_t rows_of_block = kRowThreads / cut.team;
  double total = 0;
#pragma unroll 1
  for (int64_t first = blockIdx.x * rows_of_block; first < cut.rows; first += gridDim.x * rows_of_block) {
    typename Passes::Share share(rows, cut, meeting, memory, first + static_cast<int32_t>(threadIdx.x) / cut.team);
    share.load_target();
    const Passes passes{share, formula};
    if constexpr (Pass == RowPass::gradient) {
      passes.gradient();
    } else {
      const C result = Pass == RowPass::value ? passes.value() : passes.second();
      if (share.is_first()) {
        total += static_cast<double>(result);
        if (rows.loss) store(rows.loss.at(share.sample, share.position), result);
      }
    }
  }
  if (cut.partial) store_block_sum<kRowThreads>(total, cut.partial);
}

namespace detail {

// How many threads share a row: as many as have two classes each to read side by side.
template <class C>
int32_t team_of(const RowViews<C>& rows) {
  if (!rows.classes_innermost()) return 1;
  if (rows.classes >= 8 * kRowThreads) return kRowThreads;
  int32_t team = 1;
  while (team < kWarpSize && 2 * team < rows.classes) team *= 2;
  return team;
}

template <class C, class Passes, RowPass Pass>
void launch_rows(const std::string& op, const RowOperands& operands, const typename Passes::Formula& formula,
                 void* marks) {
  const RowViews<C> rows(operands);
  const DeviceOf device(operands.inputs.tensor);
  RowCut cut{rows.batch * rows.positions, team_of(rows), 0, false, nullptr};
  cut.steps = static_cast<int32_t>((rows.classes + cut.team - 1) / cut.team);
  const int64_t bytes = Passes::arrays(Pass) * cut.steps * kRowThreads * static_cast<int64_t>(sizeof(C));
  cut.kept = bytes <= kSharedWithoutAsking - static_cast<int64_t>(sizeof(RowMeeting<C>));
  const int64_t rows_of_block = kRowThreads / cut.team;
  int64_t blocks = std::min<int64_t>((cut.rows + rows_of_block - 1) / rows_of_block, INT32_MAX);
  std::optional<Tensor> partial;
  if (operands.sum) {
    blocks = std::min(blocks, kRowSumBlocks);
    partial = empty_vector<double>(blocks, operands.inputs.tensor);
    cut.partial = partial->mutable_data_ptr<double>();
  }
  cut.marks = marks;
  launch(op.c_str(), rows_kernel<C, Passes, Pass>, device, {blocks, dim3(kRowThreads, 1, 1), cut.kept ? bytes : 0},
         rows, cut, formula);
  if (!operands.sum) return;
  launch("sum_of_partial_sums", sum_partial_kernel<kSumThreads>, device, {1, kSumThreads}, cut.partial, blocks, 1.0,
         kDtype<C>, operands.sum->mutable_data_ptr());
}

}  // namespace detail

// `marks` gets two numbers of each row, for row_matrix.cuh; null: nothing.
template <class C, class Passes>
void launch_row_pass(const std::string& op, RowPass pass, const RowOperands& operands,
                     const typename Passes::Formula& formula, void* marks = nullptr) {
  if (pass == RowPass::value) {
    detail::launch_rows<C, Passes, RowPass::value>(op, operands, formula, marks);
  } else if (pass == RowPass::gradient) {
    detail::launch_rows<C, Passes, RowPass::gradient>(op + "_backward", operands, formula, marks);
  } else {
    detail::launch_rows<C, Passes, RowPass::second>(op + "_double_backward", operands, formula, marks);
  }
}

// What host entries that serve several devices call (kinds/row_loss.h).
struct RowsOnCuda {
  template <class C, class Formula>
  static void for_each_row(const char* op, RowPass pass, const RowOperands& operands, const Formula& formula) {
    if (operands.is_hard()) {
      launch_row_pass<C, RowPasses<C, Formula, true>>(op, pass, operands, formula);
    } else {
      launch_row_pass<C, RowPasses<C, Formula, false>>(op, pass, operands, formula);
    }
  }
  // Of an op whose coefficients are a matrix'.
  template <class C, class Formula>
  static void for_each_row_of_matrix(const char* op, RowPass pass, const RowOperands& operands,
                                     const Formula& formula) {
    using Passes = RowPasses<C, Formula, false>;
    if (!operands.grad_matrix) return launch_row_pass<C, Passes>(op, pass, operands, formula);
    const Tensor& inputs = operands.inputs.tensor;
    const RowViews<C> rows(operands);
    const Tensor marks = empty_vector<C>(2 * rows.batch * rows.positions, inputs);
    launch_row_pass<C, Passes>(op, pass, operands, formula, marks.mutable_data_ptr());
    launch_row_matrix(op, DeviceOf(inputs), rows, marks.const_data_ptr<C>(), pass);
  }
};

}  // namespace handgrad
