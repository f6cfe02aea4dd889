// The operands of a normalisation of each channel by sums over its positions: (batch, channels, positions…). For both
// devices; the loops themselves are cpu/spatial_norm.h's and cuda/spatial_norm.cuh's.
#pragma once

#include <array>
#include <optional>

#include "abi/channels.h"
#include "cpu/row_operands.h"
#include "math/spatial_norm.h"
#include "math/stored.h"

namespace handgrad {

using SpatialTensors = std::array<std::optional<Tensor>, kSpatialParameters>;

// What is read and written; what is not asked for is left out. Tensors of [C] are of the type that is computed in.
struct SpatialOperands {
  ChannelTensor input;                                        // [N, C, P]
  int64_t group = 1;                                          // so many channels are normalised together
  SpatialTensors parameters, directions, grads;               // [C] each
  std::optional<ChannelTensor> grad_output, direction_input;  // [N, C, P]
  // The output, or in the second pass the gradient of grad_output; [N, C, P].
  std::optional<ChannelTensor> output;
  std::optional<ChannelTensor> grad_input;  // [N, C, P]

  explicit SpatialOperands(const Tensor& input) : input(input) {}
};

// The same as kernels see it, computed in C.
template <class C>
struct SpatialViews {
  int64_t batch, channels, positions, group;
  StoredView<const C, 3> input, grad_output, direction_input;
  StoredView<C, 3> output, grad_input;
  View<const C, 1> parameters[kSpatialParameters], directions[kSpatialParameters];
  C* grads[kSpatialParameters] = {};

  explicit SpatialViews(const SpatialOperands& operands)
      : batch(operands.input.batch),
        channels(operands.input.channels),
        positions(operands.input.positions),
        group(operands.group),
        input(stored_view<C>(operands.input)) {
    if (operands.grad_output) grad_output = stored_view<C>(*operands.grad_output);
    if (operands.direction_input) direction_input = stored_view<C>(*operands.direction_input);
    if (operands.output) output = mutable_stored_view<C>(*operands.output);
    if (operands.grad_input) grad_input = mutable_stored_view<C>(*operands.grad_input);
    for (size_t k = 0; k < kSpatialParameters; ++k) {
      parameters[k] = view<C, 1>(operands.parameters[k]);
      directions[k] = view<C, 1>(operands.directions[k]);
      if (operands.grads[k]) grads[k] = operands.grads[k]->template mutable_data_ptr<C>();
    }
  }

  // Channels lie densely in memory, and positions do not.
  bool channels_innermost() const { return input.strides[1] == 1 && input.strides[2] != 1; }
  bool has_grads() const {
    for (const C* grad : grads) {
      if (grad) return true;
    }
    return false;
  }
  HANDGRAD_MATH C parameter(int which, int64_t c, C otherwise) const {
    return parameters[which] ? *parameters[which].at(c) : otherwise;
  }
  HANDGRAD_MATH C direction(int which, int64_t c) const { return directions[which] ? *directions[which].at(c) : C(0); }

  // What channel c brings to its norm, given its sums.
  HANDGRAD_MATH SpatialState state(int64_t c, const double* sums, bool second) const {
    SpatialState state;
    for (int k = 0; k < kSpatialSums; ++k) state.sums[k] = sums[k];
    state.weight = static_cast<double>(parameter(kWeight, c, C(1)));
    state.learned_eps = static_cast<double>(parameter(kLearnedEps, c, C(0)));
    state.direction_weight = static_cast<double>(direction(kWeight, c));
    state.direction_eps = static_cast<double>(direction(kLearnedEps, c));
    state.second = second;
    return state;
  }
  // What elements of channel c need, each `stride` after the one before.
  HANDGRAD_MATH void set_factors(int64_t c, const SpatialFactors& made, C* to, int64_t stride) const {
    const C values[kSpatialFactors] = {static_cast<C>(made.scale),    parameter(kBias, c, C(0)),
                                       parameter(kTau, c, C(0)),      static_cast<C>(made.moved),
                                       static_cast<C>(made.of_input), static_cast<C>(made.of_direction),
                                       direction(kBias, c),           direction(kTau, c)};
    for (int k = 0; k < kSpatialFactors; ++k) to[k * stride] = values[k];
  }
  // A sample's part of the gradients of the parameters of a channel.
  HANDGRAD_MATH static void set_grads(const SpatialState& state, const SpatialFactors& made, double* to) {
    to[kWeight] = made.grad_weight;
    to[kBias] = state.sums[kGrad];
    to[kTau] = state.sums[kRest];
    to[kLearnedEps] = made.grad_eps;
  }
};

}  // namespace handgrad
