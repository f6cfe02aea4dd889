// Normalisations of each channel of a sample by sums over its positions: everything of their host entries but what the
// sums make of it.
//
// An op describes itself at the end of its _math.h:
//
//   struct MyNormOp {
//     static constexpr const char* name = "my_norm";
//     using Norm = MyNorm;  // from the sums of a channel to its factors: kTotals, add, factors
//     static constexpr bool rectifies = false;  // has tau and an eps that is learnt, in the schemas too; else groups
//   };
//
// Its _cpu.cpp is this header, cpu/spatial_norm.h and one line,
//
//   handgrad::spatial_norm::implement<MyNormOp, handgrad::SpatialOnCpu>(library);
//
// and its _cuda.cu the same with cuda/spatial_norm.cuh and SpatialOnCuda. Tensors of channels and their gradients are
// of the type that the input is computed in. Nothing is saved between passes but the inputs.
#pragma once

#include "cpu/spatial_operands.h"
#include "kinds/channel_norm.h"

namespace handgrad::spatial_norm {

using channel_norm::check_input;
using channel_norm::check_of_channels;
using channel_norm::empty_of_channels;

// What a pass takes beside its operands.
struct Call {
  double eps;
  int64_t groups;
};

inline void check_parameters(const char* op, const SpatialTensors& tensors, const char* const* names,
                             const Tensor& input) {
  for (size_t k = 0; k < kSpatialParameters; ++k) check_of_channels(op, names[k], tensors[k], input);
}

template <class Op>
SpatialOperands operands_of(const Tensor& input, const SpatialTensors& parameters, const Call& call) {
  static constexpr const char* kNames[] = {"weight", "bias", "tau", "learned_eps"};
  check_input(Op::name, input, call.eps);
  check_parameters(Op::name, parameters, kNames, input);
  const int64_t channels = input.sizes()[1];
  HANDGRAD_CHECK(call.groups >= 1 && channels % call.groups == 0, Op::name, ": groups must divide the channels, ",
                 channels, "; got ", call.groups);
  SpatialOperands operands(input);
  operands.group = channels / call.groups;
  operands.parameters = parameters;
  return operands;
}

template <class Op, class Device, bool Rectified, RowPass Pass>
void run_pass(const SpatialOperands& operands, double eps) {
  dispatch_compute(Op::name, operands.input.tensor.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Device::template normalise<C, typename Op::Norm, Rectified, Pass>(Op::name, operands, eps);
  });
}

template <class Op, class Device, RowPass Pass>
void run(const SpatialOperands& operands, double eps) {
  if constexpr (Op::rectifies) {
    if (operands.parameters[kTau]) return run_pass<Op, Device, true, Pass>(operands, eps);
  }
  run_pass<Op, Device, false, Pass>(operands, eps);
}

template <class Op, class Device>
Tensor value(const Tensor& input, const SpatialTensors& parameters, const Call& call) {
  SpatialOperands operands = operands_of<Op>(input, parameters, call);
  const Tensor output = empty_in_layout_of(input);
  if (input.numel() == 0) return output;
  operands.output = ChannelTensor(output);
  run<Op, Device, RowPass::value>(operands, call.eps);
  return output;
}

// The gradients of the input and of the parameters.
template <class Op, class Device>
std::array<Tensor, 5> gradient(const Tensor& grad_output, const Tensor& input, const SpatialTensors& parameters,
                               const Call& call, const std::array<bool, 5>& wanted) {
  SpatialOperands operands = operands_of<Op>(input, parameters, call);
  check_like(Op::name, "grad_output", grad_output, "input", input);
  std::array<Tensor, 5> grads;
  grads[0] = empty_gradient(wanted[0], input);
  for (size_t k = 0; k < kSpatialParameters; ++k) {
    grads[k + 1] = empty_of_channels(wanted[k + 1], input);
    if (wanted[k + 1]) operands.grads[k] = grads[k + 1];
  }
  if (input.numel() == 0) {
    for (const Tensor& grad : grads) fill_zero(grad);
  } else if (std::any_of(wanted.begin(), wanted.end(), [](bool is) { return is; })) {
    operands.grad_output = ChannelTensor(grad_output);
    if (wanted[0]) operands.grad_input = ChannelTensor(grads[0]);
    run<Op, Device, RowPass::gradient>(operands, call.eps);
  }
  return grads;
}

// What the gradients are differentiated along.
struct Directions {
  const std::optional<Tensor>& input;
  SpatialTensors parameters;
};

// The gradients of grad_output, input, weight and learned_eps.
template <class Op, class Device>
std::array<Tensor, 4> second(const Directions& along, const Tensor& grad_output, const Tensor& input,
                             const SpatialTensors& parameters, const Call& call, const std::array<bool, 4>& wanted) {
  static constexpr const char* kNames[] = {"grad_grad_weight", "grad_grad_bias", "grad_grad_tau",
                                           "grad_grad_learned_eps"};
  SpatialOperands operands = operands_of<Op>(input, parameters, call);
  check_like(Op::name, "grad_output", grad_output, "input", input);
  if (along.input) check_like(Op::name, "grad_grad_input", *along.input, "input", input);
  check_parameters(Op::name, along.parameters, kNames, input);
  const bool of_weight = wanted[2] && parameters[kWeight], of_eps = wanted[3] && parameters[kLearnedEps];
  const std::array<Tensor, 4> grads{empty_gradient(wanted[0], input), empty_gradient(wanted[1], input),
                                    empty_of_channels(of_weight, input), empty_of_channels(of_eps, input)};
  if (input.numel() == 0) {
    for (const Tensor& grad : grads) fill_zero(grad);
  } else if (wanted[0] || wanted[1] || of_weight || of_eps) {
    operands.grad_output = ChannelTensor(grad_output);
    if (along.input) operands.direction_input = ChannelTensor(*along.input);
    operands.directions = along.parameters;
    if (wanted[0]) operands.output = ChannelTensor(grads[0]);
    if (wanted[1]) operands.grad_input = ChannelTensor(grads[1]);
    if (of_weight) operands.grads[kWeight] = grads[2];
    if (of_eps) operands.grads[kLearnedEps] = grads[3];
    run<Op, Device, RowPass::second>(operands, call.eps);
  }
  return grads;
}

// ---- host entries ---------------------------------------------------------------------------------------------------

template <class Op, class Device, bool Rectifies = Op::rectifies>
struct Entries {
  static Tensor forward(const Tensor& input,                       // [N, C, ...]
                        const std::optional<Tensor>& weight,       // [C]
                        const std::optional<Tensor>& bias,         // [C]
                        const std::optional<Tensor>& tau,          // [C]
                        const std::optional<Tensor>& learned_eps,  // [C]
                        double eps) {
    return value<Op, Device>(input, {weight, bias, tau, learned_eps}, {eps, 1});
  }
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad_output,  // as input
                                                                     const Tensor& input,        // [N, C, ...]
                                                                     const std::optional<Tensor>& weight,       // [C]
                                                                     const std::optional<Tensor>& bias,         // [C]
                                                                     const std::optional<Tensor>& tau,          // [C]
                                                                     const std::optional<Tensor>& learned_eps,  // [C]
                                                                     double eps, const std::vector<bool>& output_mask) {
    const SpatialTensors parameters{weight, bias, tau, learned_eps};
    auto wanted = as_output_mask<5>(Op::name, output_mask);
    for (size_t k = 0; k < kSpatialParameters; ++k) wanted[k + 1] = wanted[k + 1] && parameters[k];
    return std::tuple_cat(gradient<Op, Device>(grad_output, input, parameters, {eps, 1}, wanted));
  }
  static std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
      const std::optional<Tensor>& grad_grad_input,        // as input
      const std::optional<Tensor>& grad_grad_weight,       // [C]
      const std::optional<Tensor>& grad_grad_bias,         // [C]
      const std::optional<Tensor>& grad_grad_tau,          // [C]
      const std::optional<Tensor>& grad_grad_learned_eps,  // [C]
      const Tensor& grad_output,                           // as input
      const Tensor& input,                                 // [N, C, ...]
      const std::optional<Tensor>& weight,                 // [C]
      const std::optional<Tensor>& bias,                   // [C]
      const std::optional<Tensor>& tau,                    // [C]
      const std::optional<Tensor>& learned_eps,            // [C]
      double eps, const std::vector<bool>& output_mask) {
    const Directions along{grad_grad_input, {grad_grad_weight, grad_grad_bias, grad_grad_tau, grad_grad_learned_eps}};
    return std::tuple_cat(second<Op, Device>(along, grad_output, input, {weight, bias, tau, learned_eps}, {eps, 1},
                                             as_output_mask<4>(Op::name, output_mask)));
  }
};

template <class Op, class Device>
struct Entries<Op, Device, false> {
  static Tensor forward(const Tensor& input,                  // [N, C, ...]
                        const std::optional<Tensor>& weight,  // [C]
                        const std::optional<Tensor>& bias,    // [C]
                        double eps, int64_t groups) {
    return value<Op, Device>(input, {weight, bias}, {eps, groups});
  }
  static std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output,            // as input
                                                     const Tensor& input,                  // [N, C, ...]
                                                     const std::optional<Tensor>& weight,  // [C]
                                                     double eps, int64_t groups, const std::vector<bool>& output_mask) {
    const auto asked = as_output_mask<3>(Op::name, output_mask);
    const auto grads = gradient<Op, Device>(grad_output, input, {weight}, {eps, groups},
                                            {asked[0], asked[1] && weight, asked[2], false, false});
    return {grads[0], grads[1], grads[2]};
  }
  static std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,   // as input
                                                            const std::optional<Tensor>& grad_grad_weight,  // [C]
                                                            const std::optional<Tensor>& grad_grad_bias,    // [C]
                                                            const Tensor& grad_output,                      // as input
                                                            const Tensor& input,                  // [N, C, ...]
                                                            const std::optional<Tensor>& weight,  // [C]
                                                            double eps, int64_t groups,
                                                            const std::vector<bool>& output_mask) {
    const auto asked = as_output_mask<3>(Op::name, output_mask);
    const auto grads = second<Op, Device>({grad_grad_input, {grad_grad_weight, grad_grad_bias}}, grad_output, input,
                                          {weight}, {eps, groups}, {asked[0], asked[1], asked[2], false});
    return {grads[0], grads[1], grads[2]};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::spatial_norm
