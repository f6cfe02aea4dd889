// The host entries of elementwise_loss.h on CUDA devices. The loops are those of elementwise.cuh, and what is here is
// which numbers of an element go in and come out.
#pragma once

#include <string>

#include "cuda/elementwise.cuh"
#include "kinds/elementwise_loss.h"

namespace handgrad::elementwise_loss {

template <class C, class Loss>
struct Value {
  Loss loss;
  // in: x, t
  __device__ C operator()(const C (&in)[2], C (&out)[1]) const { return out[0] = loss.value(in[0], in[1]); }
};

template <class C, class Loss>
struct Sum {
  Loss loss;
  // in: x, t
  __device__ C operator()(const C (&in)[2], C (&)[1]) const { return loss.value(in[0], in[1]); }
};

template <class C, class Loss, bool NeedInputs, bool NeedTargets>
struct Gradient {
  Loss loss;
  // in: x, t, grad_output
  __device__ C operator()(const C (&in)[3], C (&out)[NeedInputs + NeedTargets]) const {
    const auto slope = loss.slope(in[0], in[1]);
    if constexpr (NeedInputs) out[0] = in[2] * slope.inputs;
    if constexpr (NeedTargets) out[NeedInputs] = in[2] * slope.targets;
    return 0;
  }
};

// The slope along (u, v) alone: what forward mode asks for.
template <class C, class Loss, bool Map>
struct Tangent {
  Loss loss;
  // in: x, t, u, v; out: grad_grad_output if it is a map
  __device__ C operator()(const C (&in)[4], C (&out)[1]) const {
    const auto slope = loss.slope(in[0], in[1]);
    const C along = slope.inputs * in[2] + slope.targets * in[3];
    if constexpr (Map) out[0] = along;
    return along;
  }
};

// The slope along (u, v), and the Hessian times (u, v).
template <class C, class Loss, bool Map>
struct SecondGradient {
  Loss loss;
  // in: x, t, grad_output, u, v; out: grad_inputs, grad_targets, and grad_grad_output if it is a map
  __device__ C operator()(const C (&in)[5], C (&out)[2 + Map]) const {
    const auto slope = loss.slope(in[0], in[1]);
    const auto curvature = loss.curvature(in[0], in[1]);
    const C g = in[2], u = in[3], v = in[4];
    out[0] = g * (curvature.inputs_inputs * u + curvature.inputs_targets * v);
    out[1] = g * (curvature.inputs_targets * u + curvature.targets_targets * v);
    const C along = slope.inputs * u + slope.targets * v;
    if constexpr (Map) out[2] = along;
    return along;
  }
};

template <class WithFormula>
Tensor forward_cuda(const char* op, const Tensor& inputs, const Tensor& targets, int64_t reduction_code,
                    const WithFormula& with_formula) {
  const Reduction reduction = check_arguments(op, inputs, targets, reduction_code);
  const Tensor output = empty_loss(inputs, reduction);
  const DeviceOf device(inputs);

  with_formula([&](auto tag, auto loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const std::array<Input<T>, 2> in{Input<T>(inputs), Input<T>(targets)};
    if (reduction == Reduction::none) {
      for_each_element<T, 2, 1>(op, inputs.sizes(), Value<C, decltype(loss)>{loss}, in, {Output<T>(output)}, device);
    } else {
      const std::string name = std::string(op) + "_sum";
      sum_over_elements<T, 2, 0>(name.c_str(), inputs.sizes(), Sum<C, decltype(loss)>{loss}, in, {}, device,
                                 reduction_scale(reduction, inputs.numel()), output);
    }
  });
  return output;
}

template <class WithFormula>
std::tuple<Tensor, Tensor> backward_cuda(const char* op, const Tensor& grad_output, const Tensor& inputs,
                                         const Tensor& targets, int64_t reduction_code,
                                         const std::vector<bool>& output_mask, const WithFormula& with_formula) {
  const Backward call(op, grad_output, inputs, targets, reduction_code, output_mask);
  const DeviceOf device(inputs);
  const std::string name = std::string(op) + "_backward";

  with_formula([&](auto tag, auto plain_loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    using Loss = decltype(plain_loss);
    const Loss loss = plain_loss.scaled(reduction_scale(call.reduction, inputs.numel()));
    const std::array<Input<T>, 3> in{Input<T>(inputs), Input<T>(targets),
                                     open_grad_output<T>(grad_output, call.reduction)};
    if (call.need_inputs && call.need_targets) {
      for_each_element<T, 3, 2>(name.c_str(), inputs.sizes(), Gradient<C, Loss, true, true>{loss}, in,
                                {Output<T>(call.grad_inputs), Output<T>(call.grad_targets)}, device);
    } else if (call.need_inputs) {
      for_each_element<T, 3, 1>(name.c_str(), inputs.sizes(), Gradient<C, Loss, true, false>{loss}, in,
                                {Output<T>(call.grad_inputs)}, device);
    } else if (call.need_targets) {
      for_each_element<T, 3, 1>(name.c_str(), inputs.sizes(), Gradient<C, Loss, false, true>{loss}, in,
                                {Output<T>(call.grad_targets)}, device);
    }
  });
  return {call.grad_inputs, call.grad_targets};
}

template <class WithFormula>
std::tuple<Tensor, Tensor, Tensor> double_backward_cuda(const char* op, const std::optional<Tensor>& grad_grad_inputs,
                                                        const std::optional<Tensor>& grad_grad_targets,
                                                        const Tensor& grad_output, const Tensor& inputs,
                                                        const Tensor& targets, int64_t reduction_code,
                                                        const std::vector<bool>& output_mask,
                                                        const WithFormula& with_formula) {
  const DoubleBackward call(op, grad_grad_inputs, grad_grad_targets, grad_output, inputs, targets, reduction_code,
                            output_mask);
  const DeviceOf device(inputs);
  const std::string name = std::string(op) + "_double_backward";
  Tensor zero = empty_scalar(inputs);
  if (!grad_grad_inputs || !grad_grad_targets) torch::stable::zero_(zero);

  with_formula([&](auto tag, auto plain_loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    using Loss = decltype(plain_loss);
    const Loss loss = plain_loss.scaled(reduction_scale(call.reduction, inputs.numel()));
    const Input<T> x(inputs), t(targets), g = open_grad_output<T>(grad_output, call.reduction);
    const Input<T> u = grad_grad_inputs ? Input<T>(*grad_grad_inputs) : Input<T>::scalar(zero);
    const Input<T> v = grad_grad_targets ? Input<T>(*grad_grad_targets) : Input<T>::scalar(zero);
    const Output<T> out_x = call.need_inputs ? Output<T>(call.grad_inputs) : Output<T>::nowhere();
    const Output<T> out_t = call.need_targets ? Output<T>(call.grad_targets) : Output<T>::nowhere();
    const bool map = call.reduction == Reduction::none || !call.need_grad_output;
    const Output<T> out_g = call.need_grad_output ? Output<T>(call.grad_grad_output) : Output<T>::nowhere();
    if (!call.need_inputs && !call.need_targets) {
      if (!call.need_grad_output) return;
      if (map) {
        for_each_element<T, 4, 1>(name.c_str(), inputs.sizes(), Tangent<C, Loss, true>{loss}, {x, t, u, v}, {out_g},
                                  device);
      } else {
        sum_over_elements<T, 4, 0>(name.c_str(), inputs.sizes(), Tangent<C, Loss, false>{loss}, {x, t, u, v}, {},
                                   device, 1.0, call.grad_grad_output);
      }
    } else if (map) {
      for_each_element<T, 5, 3>(name.c_str(), inputs.sizes(), SecondGradient<C, Loss, true>{loss}, {x, t, g, u, v},
                                {out_x, out_t, out_g}, device);
    } else {
      sum_over_elements<T, 5, 2>(name.c_str(), inputs.sizes(), SecondGradient<C, Loss, false>{loss}, {x, t, g, u, v},
                                 {out_x, out_t}, device, 1.0, call.grad_grad_output);
    }
  });
  return {call.grad_grad_output, call.grad_inputs, call.grad_targets};
}

}  // namespace handgrad::elementwise_loss
