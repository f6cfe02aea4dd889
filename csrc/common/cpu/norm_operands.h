// The operands of a normalisation over channels: (batch, channels, positions…), of which every position of a sample is
// a row. For both devices; the loops themselves are cpu/norm_rows.h's and cuda/norm_rows.cuh's.
#pragma once

#include <optional>

#include "abi/channels.h"
#include "cpu/row_operands.h"
#include "math/stored.h"

namespace handgrad {

// What is read and written; what is not asked for is left out. Tensors of [C] are of the type that is computed in.
struct NormOperands {
  ChannelTensor input;                           // [N, C, P]
  std::optional<Tensor> weight, bias;            // [C]
  std::optional<ChannelTensor> grad_output;      // [N, C, P]
  std::optional<ChannelTensor> direction_input;  // [N, C, P]
  std::optional<Tensor> direction_weight;        // [C]
  std::optional<Tensor> direction_bias;          // [C]
  // The output, or in the second pass the gradient of grad_output; [N, C, P].
  std::optional<ChannelTensor> output;
  std::optional<ChannelTensor> grad_input;       // [N, C, P]
  std::optional<Tensor> grad_weight, grad_bias;  // [C]

  explicit NormOperands(const Tensor& input) : input(input) {}
};

// The same as kernels see it, computed in C.
template <class C>
struct NormViews {
  int64_t batch, channels, positions;
  StoredView<const C, 3> input, grad_output, direction_input;
  View<const C, 1> weight, bias, direction_weight, direction_bias;
  StoredView<C, 3> output, grad_input;
  C *grad_weight = nullptr, *grad_bias = nullptr;

  explicit NormViews(const NormOperands& operands)
      : batch(operands.input.batch),
        channels(operands.input.channels),
        positions(operands.input.positions),
        input(stored_view<C>(operands.input)),
        grad_output(view_of(operands.grad_output)),
        direction_input(view_of(operands.direction_input)),
        weight(view<C, 1>(operands.weight)),
        bias(view<C, 1>(operands.bias)),
        direction_weight(view<C, 1>(operands.direction_weight)),
        direction_bias(view<C, 1>(operands.direction_bias)) {
    if (operands.output) output = mutable_stored_view<C>(*operands.output);
    if (operands.grad_input) grad_input = mutable_stored_view<C>(*operands.grad_input);
    if (operands.grad_weight) grad_weight = operands.grad_weight->template mutable_data_ptr<C>();
    if (operands.grad_bias) grad_bias = operands.grad_bias->template mutable_data_ptr<C>();
    if (positions == 1) merge([](const auto&) { return true; });
    merge([this](const auto& view) { return view.strides[0] == positions * view.strides[2]; });
  }

  HANDGRAD_MATH int64_t rows() const { return batch * positions; }
  // Channels lie densely in memory, and positions do not.
  bool channels_innermost() const { return input.strides[1] == 1 && input.strides[2] != 1; }

 private:
  static StoredView<const C, 3> view_of(const std::optional<ChannelTensor>& tensor) {
    return tensor ? stored_view<C>(*tensor) : StoredView<const C, 3>{};
  }
  // Where the positions of all samples lie as those of one do, they are positions of one sample.
  template <class Fits>
  void merge(const Fits& fits) {
    const auto fit = [&](const auto& view) { return !view || fits(view); };
    if (!fit(input) || !fit(grad_output) || !fit(direction_input) || !fit(output) || !fit(grad_input)) return;
    const auto step = [this](auto& view) {
      if (positions == 1) view.strides[2] = view.strides[0];
    };
    for (auto* each : {&input, &grad_output, &direction_input}) step(*each);
    for (auto* each : {&output, &grad_input}) step(*each);
    positions *= batch;
    batch = 1;
  }
};

}  // namespace handgrad
