// The operands of a loop over rows of classes: (batch, classes, positions…), of which every position of a sample is a
// row. For both devices; the loops themselves are cpu/rows.h's and cuda/rows.cuh's.
#pragma once

#include <optional>

#include "abi/channels.h"
#include "math/stored.h"

namespace handgrad {

// A tensor with one element for each row, (batch, positions…), whose positions are a fixed stride apart; one whose
// positions lie otherwise is copied.
struct RowTensor {
  Tensor tensor;
  std::array<int64_t, 2> strides{};

  explicit RowTensor(const Tensor& any) : tensor(any) {
    if (!stride_of_positions(tensor, 1)) tensor = torch::stable::contiguous(any);
    strides = {tensor.strides()[0], *stride_of_positions(tensor, 1)};
  }
};

// The passes of a loss over rows: its value, its gradients, and their derivatives along a direction.
enum class RowPass { value, gradient, second };

// What a loss over rows reads and writes. Without `indices` the targets are probabilities; what is not asked for is
// left out.
struct RowOperands {
  ChannelTensor inputs;                        // [N, C, P]
  std::optional<RowTensor> indices;            // [N, P]: the class of each row
  std::optional<ChannelTensor> probabilities;  // [N, C, P]
  std::optional<Tensor> weight;                // [C]
  // [C, C], contiguous: the coefficients of all classes, by the class that is the target.
  std::optional<Tensor> matrix, direction_matrix, grad_matrix;
  int64_t ignore_index = 0;
  double label_smoothing = 0;
  std::optional<Tensor> grad_of_sum;                                 // one number for all rows
  std::optional<RowTensor> grad_of_rows;                             // [N, P]
  std::optional<ChannelTensor> direction_inputs, direction_targets;  // [N, C, P]
  std::optional<RowTensor> loss;                                     // [N, P]
  std::optional<Tensor> sum;                                         // one number
  std::optional<ChannelTensor> grad_inputs, grad_targets;            // [N, C, P]

  explicit RowOperands(const Tensor& inputs) : inputs(inputs) {}

  // Of each row only the class that is its target has a loss.
  bool is_hard() const { return indices && !matrix && label_smoothing == 0; }
};

// The same as kernels see it, computed in C, which losses and their gradients are stored in too.
template <class C>
struct RowViews {
  int64_t batch, classes, positions, ignore_index;
  // Of each class' loss a row takes weight (spread + kept * probability).
  C spread, kept;
  StoredView<const C, 3> inputs, probabilities, direction_inputs, direction_targets;
  View<const int64_t, 2> indices;
  View<const C, 1> weight;
  View<const C, 2> matrix, direction_matrix;
  View<C, 2> grad_matrix;
  View<const C, 2> grad_output;
  View<C, 2> loss;
  StoredView<C, 3> grad_inputs, grad_targets;

  explicit RowViews(const RowOperands& operands)
      : batch(operands.inputs.batch),
        classes(operands.inputs.channels),
        positions(operands.inputs.positions),
        ignore_index(operands.ignore_index),
        spread(static_cast<C>(operands.label_smoothing / static_cast<double>(classes))),
        kept(static_cast<C>(1 - operands.label_smoothing)),
        inputs(stored_view<C>(operands.inputs)),
        probabilities(view_of(operands.probabilities)),
        direction_inputs(view_of(operands.direction_inputs)),
        direction_targets(view_of(operands.direction_targets)) {
    if (operands.indices) indices = {operands.indices->tensor.template const_data_ptr<int64_t>(), {}};
    if (operands.weight) weight = view<C, 1>(*operands.weight);
    if (operands.matrix) matrix = view<C, 2>(*operands.matrix);
    if (operands.direction_matrix) direction_matrix = view<C, 2>(*operands.direction_matrix);
    if (operands.grad_matrix) grad_matrix = mutable_view<C, 2>(*operands.grad_matrix);
    if (operands.grad_of_rows) grad_output = {operands.grad_of_rows->tensor.template const_data_ptr<C>(), {}};
    if (operands.grad_of_sum) grad_output = {operands.grad_of_sum->template const_data_ptr<C>(), {}};
    if (operands.loss) loss = {operands.loss->tensor.template mutable_data_ptr<C>(), {}};
    if (operands.grad_inputs) grad_inputs = mutable_stored_view<C>(*operands.grad_inputs);
    if (operands.grad_targets) grad_targets = mutable_stored_view<C>(*operands.grad_targets);
    set_strides(indices, operands.indices);
    set_strides(grad_output, operands.grad_of_rows);
    set_strides(loss, operands.loss);
    if (positions == 1) merge();
  }

  // Classes lie densely in memory, and positions do not.
  bool classes_innermost() const { return inputs.strides[1] == 1 && inputs.strides[2] != 1; }

 private:
  static StoredView<const C, 3> view_of(const std::optional<ChannelTensor>& tensor) {
    return tensor ? stored_view<C>(*tensor) : StoredView<const C, 3>{};
  }
  template <class T>
  static void set_strides(View<T, 2>& view, const std::optional<RowTensor>& tensor) {
    if (!tensor) return;
    view.strides[0] = tensor->strides[0];
    view.strides[1] = tensor->strides[1];
  }
  // Samples of one position are positions of one sample.
  void merge() {
    positions = batch;
    batch = 1;
    const auto as_positions = [](auto& view, int position) { view.strides[position] = view.strides[0]; };
    for (auto* each : {&inputs, &probabilities, &direction_inputs, &direction_targets}) as_positions(*each, 2);
    for (auto* each : {&grad_inputs, &grad_targets}) as_positions(*each, 2);
    as_positions(indices, 1);
    as_positions(grad_output, 1);
    as_positions(loss, 1);
  }
};

}  // namespace handgrad
