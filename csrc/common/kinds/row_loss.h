// Losses of rows of logits, one logit for each class, with class numbers or probabilities for targets: everything of
// their host entries but the formula. With p the softmax of a row and l = log p,
//
//   L = sum of a_c g(l_c),   a_c = weight_c (spread + kept target_c)
//
// where label smoothing makes spread = smoothing / C and kept = 1 - smoothing, and a class number is a target of 1 at
// its class. With slopes s_c = a_c g'(l_c) and g the incoming gradient, v the direction of the logits, u that of the
// targets, u'_c = weight_c kept u_c and m_c = v_c - sum of p v:
//
//   grad_inputs_k = g (s_k - p_k sum of s)                              grad_targets_k = g weight_k kept g(l_k)
//   along the directions: sum of (s_c m_c + u'_c g(l_c))
//   second grad_inputs_k = g (r_k - p_k (sum of r + m_k sum of s))      r_c = a_c g''(l_c) m_c + u'_c g'(l_c)
//   second grad_targets_k = g weight_k kept g'(l_k) m_k
//
// An op describes itself as formula.h says; its formula has value, slope and curvature of g at a ClassPoint
// (math/softmax_row.h). Its _cpu.cpp is this header, cpu/rows.h and one line,
//
//   handgrad::row_loss::implement<MyLossOp, handgrad::RowsOnCpu>(library);
//
// and its _cuda.cu the same with cuda/rows.cuh and RowsOnCuda.
//
// Logits of half types are read as they are, and their losses are float32. The ops know the reductions none and sum: a
// mean is a sum divided by what targets and weights say.
#pragma once

#include <optional>

#include "abi/layout.h"
#include "abi/output_mask.h"
#include "abi/reduction.h"
#include "cpu/row_operands.h"
#include "kinds/formula.h"

namespace handgrad::row_loss {

// ---- checks, and the results to be filled ---------------------------------------------------------------------------

// (batch, classes, positions…) without the classes.
inline std::vector<int64_t> row_sizes(const Tensor& inputs) {
  const Sizes sizes = inputs.sizes();
  std::vector<int64_t> rows(sizes.begin(), sizes.end());
  rows.erase(rows.begin() + 1);
  return rows;
}
inline Sizes as_sizes(const std::vector<int64_t>& sizes) { return Sizes(sizes.data(), sizes.size()); }
inline bool is_of(const Tensor& tensor, Sizes wanted) {
  const Sizes sizes = tensor.sizes();
  return std::equal(sizes.begin(), sizes.end(), wanted.begin(), wanted.end());
}

// What an op's results are like.
struct Rows {
  const char* op;
  const Tensor& inputs;  // [N, C, ...]
  bool summed;
  std::vector<int64_t> sizes;  // [N, ...]

  ScalarType loss_dtype() const {
    return inputs.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
  // One number, or one for each row.
  Tensor empty_loss() const {
    const std::vector<int64_t> of = summed ? std::vector<int64_t>() : sizes, strides = contiguous_strides(as_sizes(of));
    const int32_t dtype = loss_dtype() == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
    return empty_strided(as_sizes(of), as_sizes(strides), dtype, inputs);
  }
  void check_grad_output(const Tensor& grad_output) const {
    const bool fits = summed ? grad_output.numel() == 1 : is_of(grad_output, as_sizes(sizes));
    HANDGRAD_CHECK(fits && grad_output.scalar_type() == loss_dtype(), op, ": grad_output must be ",
                   summed ? "one element" : shape_text(as_sizes(sizes)), " of ", dtype_text(loss_dtype()),
                   ", as the loss; got ", shape_text(grad_output), " of ", dtype_text(grad_output.scalar_type()));
    check_device(op, "grad_output", grad_output, "inputs", inputs);
  }
  void set_loss(RowOperands& operands, bool wanted, const Tensor& loss) const {
    if (!wanted) return;
    if (summed) {
      operands.sum = loss;
    } else {
      operands.loss = RowTensor(loss);
    }
  }
};

inline void check_classes(const char* op, const char* argument, const Tensor& inputs) {
  HANDGRAD_CHECK(inputs.dim() >= 2 && inputs.sizes()[1] >= 1 && inputs.sizes()[1] <= INT32_MAX, op, ": ", argument,
                 " must have shape (batch, classes, ...) with 1 to 2^31 - 1 classes; got ", shape_text(inputs));
}
inline Rows rows_of(const char* op, const Tensor& inputs, int64_t reduction) {
  HANDGRAD_CHECK(as_reduction(op, reduction) != Reduction::mean, op, ": reduction must be 0 (none) or 2 (sum); got 1");
  return {op, inputs, as_reduction(op, reduction) != Reduction::none, row_sizes(inputs)};
}

inline Rows check_arguments(const char* op, const Tensor& inputs, const Tensor& targets,
                            const std::optional<Tensor>& weight, int64_t reduction) {
  check_floating(op, "inputs", inputs);
  check_classes(op, "inputs", inputs);
  const Rows rows = rows_of(op, inputs, reduction);
  const bool indices = targets.scalar_type() == ScalarType::Long && is_of(targets, as_sizes(rows.sizes));
  const bool probabilities = targets.scalar_type() == inputs.scalar_type() && is_of(targets, inputs.sizes());
  HANDGRAD_CHECK(indices || probabilities, op, ": targets must be class numbers, int64 of shape ",
                 shape_text(as_sizes(rows.sizes)), ", or probabilities, ", dtype_text(inputs.scalar_type()),
                 " of shape ", shape_text(inputs), ", for these inputs; got ", shape_text(targets), " of ",
                 dtype_text(targets.scalar_type()));
  check_device(op, "targets", targets, "inputs", inputs);
  if (weight) {
    check_shape(op, "weight", *weight, {inputs.sizes()[1]}, "(classes,)");
    HANDGRAD_CHECK(weight->scalar_type() == rows.loss_dtype(), op, ": weight must be ", dtype_text(rows.loss_dtype()),
                   " beside inputs of ", dtype_text(inputs.scalar_type()), "; got ", dtype_text(weight->scalar_type()));
    check_device(op, "weight", *weight, "inputs", inputs);
  }
  return rows;
}

inline Rows check_backward(const char* op, const Tensor& grad_output, const Tensor& inputs, const Tensor& targets,
                           const std::optional<Tensor>& weight, int64_t reduction) {
  const Rows rows = check_arguments(op, inputs, targets, weight, reduction);
  rows.check_grad_output(grad_output);
  return rows;
}

inline void check_direction(const char* op, const char* argument, const std::optional<Tensor>& direction,
                            const char* model_name, const Tensor& model) {
  if (!direction) return;
  HANDGRAD_CHECK(is_floating(model.scalar_type()), op, ": ", argument, " must be None, because ", model_name,
                 " are class numbers; got ", shape_text(*direction));
  check_like(op, argument, *direction, model_name, model);
}

inline RowOperands operands_of(const Tensor& inputs, const Tensor& targets, const std::optional<Tensor>& weight,
                               int64_t ignore_index, double label_smoothing) {
  RowOperands operands(inputs);
  if (is_floating(targets.scalar_type())) {
    operands.probabilities = ChannelTensor(targets);
  } else {
    operands.indices = RowTensor(targets);
  }
  operands.weight = weight;
  operands.ignore_index = ignore_index;
  operands.label_smoothing = label_smoothing;
  return operands;
}

inline void set_grad_output(RowOperands& operands, const Rows& rows, const Tensor& grad_output) {
  if (rows.summed) {
    operands.grad_of_sum = grad_output;
  } else {
    operands.grad_of_rows = RowTensor(grad_output);
  }
}

inline void set_gradients(RowOperands& operands, bool of_inputs, const Tensor& grad_inputs, bool of_targets,
                          const Tensor& grad_targets) {
  if (of_inputs) operands.grad_inputs = ChannelTensor(grad_inputs);
  if (of_targets) operands.grad_targets = ChannelTensor(grad_targets);
}

// Which gradients are asked for; class numbers have none.
template <size_t N>
std::array<bool, N> wanted(const char* op, const std::vector<bool>& output_mask, const Tensor& targets) {
  std::array<bool, N> need = as_output_mask<N>(op, output_mask);
  need[N - 1] = need[N - 1] && is_floating(targets.scalar_type());
  return need;
}

// ---- host entries ---------------------------------------------------------------------------------------------------

template <class Op, class Device, class Numbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  static void run(RowPass pass, const RowOperands& operands, Number... numbers) {
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      Device::template for_each_row<C>(Op::name, pass, operands, formula);
    };
    with_formula<Op>(operands.inputs.tensor.scalar_type(), loop, numbers...);
  }

  static Tensor forward(const Tensor& inputs,                 // [N, C, ...]
                        const Tensor& targets,                // [N, ...] of int64, or as inputs
                        const std::optional<Tensor>& weight,  // [C]
                        Number... numbers, int64_t ignore_index, double label_smoothing, int64_t reduction) {
    const Rows rows = check_arguments(Op::name, inputs, targets, weight, reduction);
    const Tensor output = rows.empty_loss();
    RowOperands operands = operands_of(inputs, targets, weight, ignore_index, label_smoothing);
    rows.set_loss(operands, true, output);
    run(RowPass::value, operands, numbers...);
    return output;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,            // as the loss: [N, ...], or one
                                             const Tensor& inputs,                 // [N, C, ...]
                                             const Tensor& targets,                // [N, ...] of int64, or as inputs
                                             const std::optional<Tensor>& weight,  // [C]
                                             Number... numbers, int64_t ignore_index, double label_smoothing,
                                             int64_t reduction, const std::vector<bool>& output_mask) {
    const Rows rows = check_backward(Op::name, grad_output, inputs, targets, weight, reduction);
    const std::array<bool, 2> need = wanted<2>(Op::name, output_mask, targets);
    const Tensor grad_inputs = empty_gradient(need[0], inputs);
    const Tensor grad_targets = empty_gradient_beside(need[1], targets, inputs);
    if (!need[0] && !need[1]) return {grad_inputs, grad_targets};
    RowOperands operands = operands_of(inputs, targets, weight, ignore_index, label_smoothing);
    set_grad_output(operands, rows, grad_output);
    set_gradients(operands, need[0], grad_inputs, need[1], grad_targets);
    run(RowPass::gradient, operands, numbers...);
    return {grad_inputs, grad_targets};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(
      const std::optional<Tensor>& grad_grad_inputs,   // as inputs
      const std::optional<Tensor>& grad_grad_targets,  // as targets, if these are probabilities
      const Tensor& grad_output,                       // as the loss
      const Tensor& inputs,                            // [N, C, ...]
      const Tensor& targets,                           // [N, ...] of int64, or as inputs
      const std::optional<Tensor>& weight,             // [C]
      Number... numbers, int64_t ignore_index, double label_smoothing, int64_t reduction,
      const std::vector<bool>& output_mask) {
    const Rows rows = check_backward(Op::name, grad_output, inputs, targets, weight, reduction);
    check_direction(Op::name, "grad_grad_inputs", grad_grad_inputs, "inputs", inputs);
    check_direction(Op::name, "grad_grad_targets", grad_grad_targets, "targets", targets);
    const std::array<bool, 3> need = wanted<3>(Op::name, output_mask, targets);
    const Tensor grad_grad_output = need[0] ? rows.empty_loss() : empty_placeholder(inputs);
    const Tensor grad_inputs = empty_gradient(need[1], inputs);
    const Tensor grad_targets = empty_gradient_beside(need[2], targets, inputs);
    if (!need[0] && !need[1] && !need[2]) return {grad_grad_output, grad_inputs, grad_targets};
    RowOperands operands = operands_of(inputs, targets, weight, ignore_index, label_smoothing);
    if (grad_grad_inputs) operands.direction_inputs = ChannelTensor(*grad_grad_inputs);
    if (grad_grad_targets) operands.direction_targets = ChannelTensor(*grad_grad_targets);
    set_grad_output(operands, rows, grad_output);
    rows.set_loss(operands, need[0], grad_grad_output);
    set_gradients(operands, need[1], grad_inputs, need[2], grad_targets);
    run(RowPass::second, operands, numbers...);
    return {grad_grad_output, grad_inputs, grad_targets};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::row_loss
