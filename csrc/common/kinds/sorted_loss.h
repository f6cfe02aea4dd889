// Losses of the sorted errors of each class, the Lovász extension of the Jaccard loss: everything of their host entries
// but the errors. With e the errors of a class of a group, sorted from the largest down, and w what they are weighed by
// (math/lovasz.h),
//
//   L = sum over classes of k_c sum over positions of w e(q),   q the softmax of the logits, or the inputs
//
// where k makes a mean over the classes that count. w depends on the order of the errors alone, so that derivatives go
// past it: with a_c = k_c w e'(q_c), g the incoming gradient, v a direction of the inputs, and a bar for the mean under
// q over the classes of a position,
//
//   grad_inputs_c = g q_c (a_c - ā)
//   along the direction: sum of q_c a_c (v_c - v̄)
//   second grad_inputs_c = g q_c ((a_c - ā) (v_c - v̄) - cov),   cov the mean of a (v - v̄)
//
// Without softmax these are g a_c, the sum of a_c v_c and 0.
//
// An op describes itself: name, Numbers and problem_of(…) as its schema has them, the class number that is class 0, and
// a Formula of errors and their slopes. Its _cpu.cpp is this header, cpu/sorted.h and one line,
//
//   handgrad::sorted_loss::implement<MyLossOp, handgrad::SortedOnCpu>(library);
//
// and its _cuda.cu the same with cuda/sorted.cuh and SortedOnCuda. The ops return the loss of each group; a reduction
// of so few numbers is torch's.
#pragma once

#include <optional>

#include "abi/check.h"
#include "abi/output_mask.h"
#include "abi/registration.h"
#include "cpu/sorted_operands.h"
#include "kinds/formula.h"

namespace handgrad::sorted_loss {

// ---- checks, and the results to be filled ---------------------------------------------------------------------------

inline ScalarType loss_dtype(const Tensor& inputs) {
  return inputs.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline SortedOperands check_arguments(const char* op, const Tensor& inputs, const Tensor& targets,
                                      const std::optional<Tensor>& weight, const SortedProblem& options) {
  check_floating(op, "inputs", inputs);
  HANDGRAD_CHECK(inputs.dim() >= 3 && inputs.sizes()[2] >= 1 && inputs.sizes()[2] <= INT32_MAX, op,
                 ": inputs must have shape (groups, samples, classes, ...) with 1 to 2^31 - 1 classes; got ",
                 shape_text(inputs));
  std::vector<int64_t> wanted(inputs.sizes().begin(), inputs.sizes().end());
  wanted.erase(wanted.begin() + 2);
  const Sizes sizes = targets.sizes();
  HANDGRAD_CHECK(
      targets.scalar_type() == ScalarType::Long && std::equal(sizes.begin(), sizes.end(), wanted.begin(), wanted.end()),
      op, ": targets must be int64 of shape ", shape_text(Sizes(wanted.data(), wanted.size())), "; got ",
      shape_text(targets), " of ", dtype_text(targets.scalar_type()));
  check_device(op, "targets", targets, "inputs", inputs);
  if (weight) {
    check_shape(op, "weight", *weight, {inputs.sizes()[2]}, "(classes,)");
    HANDGRAD_CHECK(weight->scalar_type() == loss_dtype(inputs), op, ": weight must be ", dtype_text(loss_dtype(inputs)),
                   "; got ", dtype_text(weight->scalar_type()));
    check_device(op, "weight", *weight, "inputs", inputs);
  }
  SortedProblem problem = options;
  problem.groups = wanted[0], problem.samples = wanted[1], problem.classes = inputs.sizes()[2], problem.positions = 1;
  for (size_t d = 2; d < wanted.size(); ++d) problem.positions *= wanted[d];
  HANDGRAD_CHECK(problem.members() <= INT32_MAX, op, ": at most 2^31 - 1 positions are sorted together; got ",
                 problem.members());
  SortedOperands operands{problem, GroupedTensor(inputs, true), GroupedTensor(targets, false), {}, {}, {}, {}, {}};
  if (weight) operands.weight = weight->is_contiguous() ? *weight : torch::stable::contiguous(*weight);
  return operands;
}

inline void set_grad_output(const char* op, SortedOperands& operands, const Tensor& grad_output, const Tensor& inputs) {
  check_shape(op, "grad_output", grad_output, {operands.problem.groups}, "(groups,)");
  HANDGRAD_CHECK(grad_output.scalar_type() == loss_dtype(inputs), op, ": grad_output must be ",
                 dtype_text(loss_dtype(inputs)), ", as the loss; got ", dtype_text(grad_output.scalar_type()));
  check_device(op, "grad_output", grad_output, "inputs", inputs);
  operands.grad_output = grad_output.is_contiguous() ? grad_output : torch::stable::contiguous(grad_output);
}

inline Tensor empty_losses(const SortedProblem& problem, const Tensor& inputs) {
  return loss_dtype(inputs) == ScalarType::Double ? empty_vector<double>(problem.groups, inputs)
                                                  : empty_vector<float>(problem.groups, inputs);
}

// Classes innermost where they are so in the inputs, otherwise contiguous; Python has the same rule.
inline Tensor empty_grad_inputs(const Tensor& inputs) {
  const Sizes sizes = inputs.sizes(), strides = inputs.strides();
  std::vector<int64_t> last(sizes.size());
  int64_t step = 1;
  bool innermost = !inputs.is_contiguous();
  const auto place = [&](size_t d) {
    last[d] = step;
    innermost = innermost && (sizes[d] == 1 || strides[d] == step);
    step *= sizes[d];
  };
  place(2);
  for (size_t d = sizes.size(); d-- > 3;) place(d);
  place(1);
  place(0);
  return innermost ? empty_strided(sizes, Sizes(last.data(), last.size()), inputs) : empty_contiguous(sizes, inputs);
}

// ---- host entries ---------------------------------------------------------------------------------------------------

template <class Op, class Device, class Numbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  template <class C>
  using Formula = typename Op::template Formula<C>;

  static SortedOperands operands_of(const Tensor& inputs, const Tensor& targets, const std::optional<Tensor>& weight,
                                    Number... numbers, const std::optional<int64_t>& ignore_index) {
    SortedProblem options{};
    Op::set(options, numbers...);
    options.ignore_index = ignore_index;
    return check_arguments(Op::name, inputs, targets, weight, options);
  }

  static Tensor forward(const Tensor& inputs,                 // [G, S, C, ...]
                        const Tensor& targets,                // [G, S, ...] of int64
                        const std::optional<Tensor>& weight,  // [C]
                        Number... numbers, const std::optional<int64_t>& ignore_index) {
    SortedOperands operands = operands_of(inputs, targets, weight, numbers..., ignore_index);
    const Tensor output = empty_losses(operands.problem, inputs);
    operands.losses = output;
    dispatch_compute(Op::name, inputs.scalar_type(),
                     [&]<class C>(TypeTag<C>) { Device::template values<C, Formula<C>>(Op::name, operands); });
    return output;
  }

  static Tensor backward(const Tensor& grad_output,            // [G]
                         const Tensor& inputs,                 // [G, S, C, ...]
                         const Tensor& targets,                // [G, S, ...] of int64
                         const std::optional<Tensor>& weight,  // [C]
                         Number... numbers, const std::optional<int64_t>& ignore_index,
                         const std::vector<bool>& output_mask) {
    SortedOperands operands = operands_of(inputs, targets, weight, numbers..., ignore_index);
    set_grad_output(Op::name, operands, grad_output, inputs);
    if (!as_output_mask<1>(Op::name, output_mask)[0]) return empty_placeholder(inputs);
    const Tensor grad_inputs = empty_grad_inputs(inputs);
    operands.grad_inputs = GroupedTensor(grad_inputs, true);
    dispatch_compute(Op::name, inputs.scalar_type(),
                     [&]<class C>(TypeTag<C>) { Device::template gradients<C, Formula<C>>(Op::name, operands); });
    return grad_inputs;
  }

  static std::tuple<Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_inputs,  // as inputs
                                                    const Tensor& grad_output,                      // [G]
                                                    const Tensor& inputs,                           // [G, S, C, ...]
                                                    const Tensor& targets,                // [G, S, ...] of int64
                                                    const std::optional<Tensor>& weight,  // [C]
                                                    Number... numbers, const std::optional<int64_t>& ignore_index,
                                                    const std::vector<bool>& output_mask) {
    SortedOperands operands = operands_of(inputs, targets, weight, numbers..., ignore_index);
    set_grad_output(Op::name, operands, grad_output, inputs);
    const std::array<bool, 2> need = as_output_mask<2>(Op::name, output_mask);
    const Tensor grad_grad_output = need[0] ? empty_losses(operands.problem, inputs) : empty_placeholder(grad_output);
    const Tensor grad_inputs = need[1] ? empty_grad_inputs(inputs) : empty_placeholder(inputs);
    if (!grad_grad_inputs) {
      fill_zero(grad_grad_output);
      fill_zero(grad_inputs);
      return {grad_grad_output, grad_inputs};
    }
    check_like(Op::name, "grad_grad_inputs", *grad_grad_inputs, "inputs", inputs);
    operands.direction = GroupedTensor(*grad_grad_inputs, true);
    if (need[0]) operands.losses = grad_grad_output;
    if (need[1]) operands.grad_inputs = GroupedTensor(grad_inputs, true);
    if (!need[0] && !need[1]) return {grad_grad_output, grad_inputs};
    dispatch_compute(Op::name, inputs.scalar_type(),
                     [&]<class C>(TypeTag<C>) { Device::template second<C, Formula<C>>(Op::name, operands); });
    return {grad_grad_output, grad_inputs};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::sorted_loss
