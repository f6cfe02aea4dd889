// Losses of sorted errors on CUDA devices: launches. The errors of all classes are written out, sorted by torch, which
// gives them with their indices, and weighed chunk by chunk.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/sort.cuh"
#include "cuda/sorted_kernels.cuh"

namespace handgrad {

template <class C, class Formula>
class SortedLaunches {
 public:
  explicit SortedLaunches(const SortedOperands& operands)
      : operands_(operands), problem_(operands.problem), device_(like()) {
    const int64_t rows = problem_.groups * problem_.classes;
    views_.groups = problem_.groups, views_.members = problem_.members(), views_.positions = problem_.positions;
    views_.chunks = (views_.members + kSortedChunk - 1) / kSortedChunk;
    views_.ignored = problem_.ignore_index.value_or(0), views_.ignores = problem_.ignore_index.has_value();
    views_.classes = static_cast<int32_t>(problem_.classes);
    views_.first_class = static_cast<int32_t>(problem_.first_class);
    views_.softmax = problem_.softmax, views_.skip_absent = problem_.skip_absent;
    views_.inputs = operands.inputs.stored<C>();
    views_.targets = {operands.targets.tensor.const_data_ptr<int64_t>(),
                      {operands.targets.of_group, operands.targets.of_sample, operands.targets.of_position}};
    if (operands.direction) views_.direction = operands.direction->stored<C>();
    if (operands.grad_inputs) views_.grad_inputs = operands.grad_inputs->mutable_stored<C>();
    if (operands.weight) views_.weight = operands.weight->const_data_ptr<C>();
    if (operands.grad_output) views_.grad_output = operands.grad_output->const_data_ptr<C>();
    counts_ = empty_indices(rows * (views_.chunks + 1), like());
    views_.counts = counts_->mutable_data_ptr<int64_t>(), views_.totals = views_.counts + rows * views_.chunks;
    scale_ = empty_vector<double>(rows, like());
    views_.scale = scale_->mutable_data_ptr<double>();
  }

  void values() {
    const Decreasing sorted = sort();
    const Tensor partial = partial_sums(blocks_of_chunks());
    weigh<true>(sorted);
    sum_up(partial, problem_.classes, views_.chunks, views_.scale);
  }

  template <bool Second>
  void gradients() {
    const Tensor weights = empty_vector<C>(problem_.numel(), like());
    views_.weights = weights.mutable_data_ptr<C>();
    weigh<false>(sort());
    const int64_t of_group = (views_.members + kSortedThreads - 1) / kSortedThreads;
    std::optional<Tensor> partial;
    if (Second) partial = partial_sums(problem_.groups * of_group);
    launch("sorted_gradients", sorted_gradients_kernel<C, Formula, Second>, device_, blocks(problem_.groups * of_group),
           views_, of_group);
    if (Second && operands_.losses) sum_up(*partial, 1, of_group, nullptr);
  }

 private:
  const Tensor& like() const { return operands_.inputs.tensor; }
  static Blocks blocks(int64_t count) { return {count, dim3(kSortedThreads, 1, 1), 0}; }
  int64_t blocks_of_chunks() const { return problem_.groups * problem_.classes * views_.chunks; }
  Tensor partial_sums(int64_t count) {
    const Tensor partial = empty_vector<double>(count, like());
    views_.partial = partial.mutable_data_ptr<double>();
    return partial;
  }

  Decreasing sort() {
    const int64_t rows = problem_.groups * problem_.classes;
    const std::array<int64_t, 2> sizes{rows, views_.members}, strides{views_.members, 1};
    const Tensor errors = empty_strided(Sizes(sizes.data(), 2), Sizes(strides.data(), 2), dtype(), like());
    const int64_t positions = problem_.groups * views_.members, one = 1;
    found_ = empty_strided(Sizes(&positions, 1), Sizes(&one, 1), aoti_torch_dtype_int32(), like());
    views_.errors = errors.mutable_data_ptr<C>(), views_.found = found_->mutable_data_ptr<int32_t>();
    launch("sorted_errors", sorted_errors_kernel<C, Formula>, device_, blocks_for(positions, kSortedThreads), views_);
    return sort_decreasing(errors, 1);
  }

  template <bool Summed>
  void weigh(const Decreasing& sorted) {
    views_.sorted = sorted.values.const_data_ptr<C>(), views_.order = sorted.order.const_data_ptr<int64_t>();
    launch("sorted_counts", sorted_counts_kernel<C>, device_, blocks(blocks_of_chunks()), views_);
    launch("sorted_scale", sorted_scale_kernel<C>, device_, blocks(problem_.groups), views_);
    launch("sorted_weights", sorted_weights_kernel<C, Summed>, device_, blocks(blocks_of_chunks()), views_);
  }

  void sum_up(const Tensor& partial, int64_t lines, int64_t of_line, const double* scale) {
    launch("sorted_losses", sorted_losses_kernel<C>, device_, blocks(problem_.groups), partial.const_data_ptr<double>(),
           lines, of_line, scale, operands_.losses->mutable_data_ptr<C>());
  }
  static int32_t dtype() { return std::is_same_v<C, double> ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(); }

  const SortedOperands& operands_;
  const SortedProblem& problem_;
  DeviceOf device_;
  SortedViews<C> views_{};
  std::optional<Tensor> counts_, scale_, found_;
};

struct SortedOnCuda {
  template <class C, class Formula>
  static void values(const char*, const SortedOperands& operands) {
    SortedLaunches<C, Formula>(operands).values();
  }
  template <class C, class Formula>
  static void gradients(const char*, const SortedOperands& operands) {
    SortedLaunches<C, Formula>(operands).template gradients<false>();
  }
  template <class C, class Formula>
  static void second(const char*, const SortedOperands& operands) {
    SortedLaunches<C, Formula>(operands).template gradients<true>();
  }
};

}  // namespace handgrad
