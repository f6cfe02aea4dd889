// What the host entries of the infogain loss share on all devices. It is a row loss (kinds/row_loss.h) whose formula is
// the cross entropy of a class, and whose coefficients a are the row of the matrix that the target chooses.
#pragma once

#include "infogain_loss_math.h"
#include "kinds/row_loss.h"

namespace handgrad::infogain {

inline constexpr const char* kOp = "infogain_loss";

inline row_loss::Rows check_arguments(const Tensor& inputs, const Tensor& targets, const Tensor& matrix,
                                      int64_t reduction) {
  check_floating(kOp, "inputs", inputs);
  row_loss::check_classes(kOp, "inputs", inputs);
  const row_loss::Rows rows = row_loss::rows_of(kOp, inputs, reduction);
  const Sizes sizes = row_loss::as_sizes(rows.sizes);
  HANDGRAD_CHECK(targets.scalar_type() == ScalarType::Long && row_loss::is_of(targets, sizes), kOp,
                 ": targets must be class numbers, int64 of shape ", shape_text(sizes), ", for these inputs; got ",
                 shape_text(targets), " of ", dtype_text(targets.scalar_type()));
  check_device(kOp, "targets", targets, "inputs", inputs);
  check_shape(kOp, "matrix", matrix, {inputs.sizes()[1], inputs.sizes()[1]}, "(classes, classes)");
  HANDGRAD_CHECK(matrix.scalar_type() == rows.loss_dtype(), kOp, ": matrix must be ", dtype_text(rows.loss_dtype()),
                 " beside inputs of ", dtype_text(inputs.scalar_type()), "; got ", dtype_text(matrix.scalar_type()));
  check_device(kOp, "matrix", matrix, "inputs", inputs);
  return rows;
}

inline RowOperands operands_of(const Tensor& inputs, const Tensor& targets, const Tensor& matrix,
                               int64_t ignore_index) {
  RowOperands operands(inputs);
  operands.indices = RowTensor(targets);
  operands.matrix = torch::stable::contiguous(matrix);
  operands.ignore_index = ignore_index;
  return operands;
}

template <class Device>
struct Entries {
  static void run(RowPass pass, const RowOperands& operands) {
    dispatch_compute(kOp, operands.inputs.tensor.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      Device::template for_each_row_of_matrix<C>(kOp, pass, operands, Formula<C>());
    });
  }

  static Tensor forward(const Tensor& inputs,   // [N, C, ...]
                        const Tensor& targets,  // [N, ...] of int64
                        const Tensor& matrix,   // [C, C]
                        int64_t ignore_index, int64_t reduction) {
    const row_loss::Rows rows = check_arguments(inputs, targets, matrix, reduction);
    const Tensor output = rows.empty_loss();
    RowOperands operands = operands_of(inputs, targets, matrix, ignore_index);
    rows.set_loss(operands, true, output);
    run(RowPass::value, operands);
    return output;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // as the loss: [N, ...], or one
                                             const Tensor& inputs,       // [N, C, ...]
                                             const Tensor& targets,      // [N, ...] of int64
                                             const Tensor& matrix,       // [C, C]
                                             int64_t ignore_index, int64_t reduction,
                                             const std::vector<bool>& output_mask) {
    const row_loss::Rows rows = check_arguments(inputs, targets, matrix, reduction);
    rows.check_grad_output(grad_output);
    const std::array<bool, 2> need = as_output_mask<2>(kOp, output_mask);
    const Tensor grad_inputs = empty_gradient(need[0], inputs), grad_matrix = empty_gradient(need[1], matrix);
    if (!need[0] && !need[1]) return {grad_inputs, grad_matrix};
    RowOperands operands = operands_of(inputs, targets, matrix, ignore_index);
    row_loss::set_grad_output(operands, rows, grad_output);
    set_gradients(operands, need[0], grad_inputs, need[1], grad_matrix);
    run(RowPass::gradient, operands);
    return {grad_inputs, grad_matrix};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_inputs,  // as inputs
                                                            const std::optional<Tensor>& grad_grad_matrix,  // as matrix
                                                            const Tensor& grad_output,  // as the loss
                                                            const Tensor& inputs,       // [N, C, ...]
                                                            const Tensor& targets,      // [N, ...] of int64
                                                            const Tensor& matrix,       // [C, C]
                                                            int64_t ignore_index, int64_t reduction,
                                                            const std::vector<bool>& output_mask) {
    const row_loss::Rows rows = check_arguments(inputs, targets, matrix, reduction);
    rows.check_grad_output(grad_output);
    if (grad_grad_inputs) check_like(kOp, "grad_grad_inputs", *grad_grad_inputs, "inputs", inputs);
    if (grad_grad_matrix) check_like(kOp, "grad_grad_matrix", *grad_grad_matrix, "matrix", matrix);
    const std::array<bool, 3> need = as_output_mask<3>(kOp, output_mask);
    const Tensor grad_grad_output = need[0] ? rows.empty_loss() : empty_placeholder(inputs);
    const Tensor grad_inputs = empty_gradient(need[1], inputs), grad_matrix = empty_gradient(need[2], matrix);
    if (!need[0] && !need[1] && !need[2]) return {grad_grad_output, grad_inputs, grad_matrix};
    RowOperands operands = operands_of(inputs, targets, matrix, ignore_index);
    if (grad_grad_inputs) operands.direction_inputs = ChannelTensor(*grad_grad_inputs);
    if (grad_grad_matrix) operands.direction_matrix = torch::stable::contiguous(*grad_grad_matrix);
    row_loss::set_grad_output(operands, rows, grad_output);
    rows.set_loss(operands, need[0], grad_grad_output);
    set_gradients(operands, need[1], grad_inputs, need[2], grad_matrix);
    run(RowPass::second, operands);
    return {grad_grad_output, grad_inputs, grad_matrix};
  }

 private:
  static void set_gradients(RowOperands& operands, bool of_inputs, const Tensor& grad_inputs, bool of_matrix,
                            const Tensor& grad_matrix) {
    if (of_inputs) operands.grad_inputs = ChannelTensor(grad_inputs);
    if (of_matrix) operands.grad_matrix = grad_matrix;
  }
};

template <class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, kOp);
}

}  // namespace handgrad::infogain
