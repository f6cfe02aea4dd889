// Normalisations over the channels of each position: everything of their host entries but what is normalised by.
//
// An op describes itself at the end of its _math.h:
//
//   struct MyNormOp {
//     static constexpr const char* name = "my_norm";
//     static constexpr bool centred = true;   // the mean is taken away
//     static constexpr bool has_bias = true;  // a bias comes after the weight, in the schemas too
//   };
//
// Its _cpu.cpp is this header, cpu/norm_rows.h and one line,
//
//   handgrad::channel_norm::implement<MyNormOp, handgrad::NormOnCpu>(library);
//
// and its _cuda.cu the same with cuda/norm_launch.cuh and NormOnCuda. Weight, bias and their gradients are of the type
// that the input is computed in. Nothing is saved between passes but input and weight.
#pragma once

#include "abi/check.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "cpu/norm_operands.h"
#include "kinds/formula.h"

namespace handgrad::channel_norm {

inline ScalarType computed(const Tensor& input) {
  return input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_input(const char* op, const Tensor& input, double eps) {
  check_floating(op, "input", input);
  HANDGRAD_CHECK(input.dim() >= 2 && input.dim() <= 5, op,
                 ": input must have 2 to 5 dimensions (batch, channels, positions...); got ", shape_text(input));
  HANDGRAD_CHECK(eps >= 0, op, ": eps must be at least 0; got ", eps);
}

inline void check_of_channels(const char* op, const char* argument, const std::optional<Tensor>& tensor,
                              const Tensor& input) {
  if (!tensor) return;
  check_shape(op, argument, *tensor, {input.sizes()[1]}, "(channels,)");
  HANDGRAD_CHECK(tensor->scalar_type() == computed(input), op, ": ", argument, " must be ", dtype_text(computed(input)),
                 " beside an input of ", dtype_text(input.scalar_type()), "; got ", dtype_text(tensor->scalar_type()));
  check_device(op, argument, *tensor, "input", input);
}

// A gradient of [C].
inline Tensor empty_of_channels(bool wanted, const Tensor& input) {
  const int64_t count = wanted ? input.sizes()[1] : 0;
  return computed(input) == ScalarType::Double ? empty_vector<double>(count, input) : empty_vector<float>(count, input);
}

template <class Op, class Device>
void run(RowPass pass, const NormOperands& operands, double eps) {
  dispatch_compute(Op::name, operands.input.tensor.scalar_type(), [&](auto tag) {
    Device::template for_each_row<typename decltype(tag)::type, Op::centred>(Op::name, pass, operands, eps);
  });
}

template <class Op, class Device>
Tensor value(const Tensor& input, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps) {
  check_input(Op::name, input, eps);
  check_of_channels(Op::name, "weight", weight, input);
  check_of_channels(Op::name, "bias", bias, input);
  const Tensor output = empty_in_layout_of(input);
  if (input.numel() == 0) return output;
  NormOperands operands(input);
  operands.weight = weight;
  operands.bias = bias;
  operands.output = ChannelTensor(output);
  run<Op, Device>(RowPass::value, operands, eps);
  return output;
}

// The gradients of input, weight and bias.
template <class Op, class Device>
std::array<Tensor, 3> gradient(const Tensor& grad_output, const Tensor& input, const std::optional<Tensor>& weight,
                               double eps, const std::array<bool, 3>& wanted) {
  check_input(Op::name, input, eps);
  check_like(Op::name, "grad_output", grad_output, "input", input);
  check_of_channels(Op::name, "weight", weight, input);
  const std::array<Tensor, 3> grads{empty_gradient(wanted[0], input), empty_of_channels(wanted[1], input),
                                    empty_of_channels(wanted[2], input)};
  if (input.numel() == 0) {
    for (const Tensor& grad : grads) fill_zero(grad);
  } else if (wanted[0] || wanted[1] || wanted[2]) {
    NormOperands operands(input);
    operands.weight = weight;
    operands.grad_output = ChannelTensor(grad_output);
    if (wanted[0]) operands.grad_input = ChannelTensor(grads[0]);
    if (wanted[1]) operands.grad_weight = grads[1];
    if (wanted[2]) operands.grad_bias = grads[2];
    run<Op, Device>(RowPass::gradient, operands, eps);
  }
  return grads;
}

// What the gradients are differentiated along.
struct Directions {
  const std::optional<Tensor>&input, &weight, &bias;
};

// The gradients of grad_output, input and weight.
template <class Op, class Device>
std::array<Tensor, 3> second(const Directions& along, const Tensor& grad_output, const Tensor& input,
                             const std::optional<Tensor>& weight, double eps, const std::array<bool, 3>& wanted) {
  check_input(Op::name, input, eps);
  check_like(Op::name, "grad_output", grad_output, "input", input);
  check_of_channels(Op::name, "weight", weight, input);
  if (along.input) check_like(Op::name, "grad_grad_input", *along.input, "input", input);
  check_of_channels(Op::name, "grad_grad_weight", along.weight, input);
  check_of_channels(Op::name, "grad_grad_bias", along.bias, input);
  const bool of_weight = wanted[2] && weight;
  const std::array<Tensor, 3> grads{empty_gradient(wanted[0], input), empty_gradient(wanted[1], input),
                                    empty_of_channels(of_weight, input)};
  if (input.numel() == 0) {
    for (const Tensor& grad : grads) fill_zero(grad);
  } else if (wanted[0] || wanted[1] || of_weight) {
    NormOperands operands(input);
    operands.weight = weight;
    operands.grad_output = ChannelTensor(grad_output);
    if (along.input) operands.direction_input = ChannelTensor(*along.input);
    operands.direction_weight = along.weight;
    operands.direction_bias = along.bias;
    if (wanted[0]) operands.output = ChannelTensor(grads[0]);
    if (wanted[1]) operands.grad_input = ChannelTensor(grads[1]);
    if (of_weight) operands.grad_weight = grads[2];
    run<Op, Device>(RowPass::second, operands, eps);
  }
  return grads;
}

// ---- host entries ---------------------------------------------------------------------------------------------------

template <class Op, class Device, bool HasBias = Op::has_bias>
struct Entries {
  static Tensor forward(const Tensor& input,                  // [N, C, ...]
                        const std::optional<Tensor>& weight,  // [C]
                        const std::optional<Tensor>& bias,    // [C]
                        double eps) {
    return value<Op, Device>(input, weight, bias, eps);
  }
  static std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output,            // as input
                                                     const Tensor& input,                  // [N, C, ...]
                                                     const std::optional<Tensor>& weight,  // [C]
                                                     double eps, const std::vector<bool>& output_mask) {
    auto wanted = as_output_mask<3>(Op::name, output_mask);
    wanted[1] = wanted[1] && weight;
    return std::tuple_cat(gradient<Op, Device>(grad_output, input, weight, eps, wanted));
  }
  static std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,   // as input
                                                            const std::optional<Tensor>& grad_grad_weight,  // [C]
                                                            const std::optional<Tensor>& grad_grad_bias,    // [C]
                                                            const Tensor& grad_output,                      // as input
                                                            const Tensor& input,                  // [N, C, ...]
                                                            const std::optional<Tensor>& weight,  // [C]
                                                            double eps, const std::vector<bool>& output_mask) {
    return std::tuple_cat(second<Op, Device>({grad_grad_input, grad_grad_weight, grad_grad_bias}, grad_output, input,
                                             weight, eps, as_output_mask<3>(Op::name, output_mask)));
  }
};

template <class Op, class Device>
struct Entries<Op, Device, false> {
  static Tensor forward(const Tensor& input,                  // [N, C, ...]
                        const std::optional<Tensor>& weight,  // [C]
                        double eps) {
    return value<Op, Device>(input, weight, std::nullopt, eps);
  }
  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,            // as input
                                             const Tensor& input,                  // [N, C, ...]
                                             const std::optional<Tensor>& weight,  // [C]
                                             double eps, const std::vector<bool>& output_mask) {
    const auto asked = as_output_mask<2>(Op::name, output_mask);
    const auto grads = gradient<Op, Device>(grad_output, input, weight, eps, {asked[0], asked[1] && weight, false});
    return {grads[0], grads[1]};
  }
  static std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,   // as input
                                                            const std::optional<Tensor>& grad_grad_weight,  // [C]
                                                            const Tensor& grad_output,                      // as input
                                                            const Tensor& input,                  // [N, C, ...]
                                                            const std::optional<Tensor>& weight,  // [C]
                                                            double eps, const std::vector<bool>& output_mask) {
    return std::tuple_cat(second<Op, Device>({grad_grad_input, grad_grad_weight, std::nullopt}, grad_output, input,
                                             weight, eps, as_output_mask<3>(Op::name, output_mask)));
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::channel_norm
