// Asymmetric loss on CUDA devices. One pass over inputs and targets each time, as on the CPU; the loops are those of
// elementwise.cuh, and what is here is which numbers of an element go in and come out.
#include "asymmetric_loss_host.h"

#include "elementwise.cuh"

namespace handgrad {
namespace {

using namespace asymmetric_loss;

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
  C scale;
  // in: x, t, grad_output
  __device__ C operator()(const C (&in)[3], C (&out)[NeedInputs + NeedTargets]) const {
    const auto slope = loss.slope(in[0], in[1]);
    if constexpr (NeedInputs) out[0] = in[2] * scale * slope.inputs;
    if constexpr (NeedTargets) out[NeedInputs] = in[2] * scale * slope.targets;
    return 0;
  }
};

// The slope along (u, v), and the Hessian times (u, v).
template <class C, class Loss, bool Map>
struct SecondGradient {
  Loss loss;
  C scale;
  // in: x, t, grad_output, u, v; out: grad_inputs, grad_targets, and grad_grad_output if it is a map
  __device__ C operator()(const C (&in)[5], C (&out)[2 + Map]) const {
    const auto slope = loss.slope(in[0], in[1]);
    const auto curvature = loss.curvature(in[0], in[1]);
    const C g = in[2] * scale, u = in[3], v = in[4];
    out[0] = g * (curvature.inputs_inputs * u + curvature.inputs_targets * v);
    out[1] = g * (curvature.inputs_targets * u + curvature.targets_targets * v);
    const C along = scale * (slope.inputs * u + slope.targets * v);
    if constexpr (Map) out[2] = along;
    return along;
  }
};

Tensor asymmetric_loss_cuda(const Tensor& inputs, const Tensor& targets, double gamma_neg, double gamma_pos,
                            double clip, int64_t reduction_code) {
  const Reduction reduction = check_arguments(inputs, targets, reduction_code);
  const Tensor output = reduction == Reduction::none ? new_like(inputs) : empty_scalar(inputs);
  const DeviceOf device(inputs);

  with_formula(inputs, gamma_neg, gamma_pos, clip, [&](auto tag, auto loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const std::array<Input<T>, 2> in{Input<T>(inputs), Input<T>(targets)};
    if (reduction == Reduction::none) {
      for_each_element<T, 2, 1>("asymmetric_loss", inputs.sizes(), Value<C, decltype(loss)>{loss}, in,
                                {Output<T>(output)}, device);
    } else {
      sum_over_elements<T, 2, 0>("asymmetric_loss_sum", inputs.sizes(), Sum<C, decltype(loss)>{loss}, in, {}, device,
                                 reduction_scale(reduction, inputs.numel()), output);
    }
  });
  return output;
}

std::tuple<Tensor, Tensor> asymmetric_loss_backward_cuda(const Tensor& grad_output, const Tensor& inputs,
                                                         const Tensor& targets, double gamma_neg, double gamma_pos,
                                                         double clip, int64_t reduction_code, bool need_inputs,
                                                         bool need_targets) {
  const Reduction reduction = check_arguments(inputs, targets, reduction_code);
  check_grad_output(grad_output, inputs, reduction);
  const Tensor grad_inputs = need_inputs ? new_like(inputs) : empty_placeholder(inputs);
  const Tensor grad_targets = need_targets ? new_like(targets) : empty_placeholder(targets);
  const DeviceOf device(inputs);

  with_formula(inputs, gamma_neg, gamma_pos, clip, [&](auto tag, auto loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    using Loss = decltype(loss);
    const C scale = static_cast<C>(reduction_scale(reduction, inputs.numel()));
    const std::array<Input<T>, 3> in{Input<T>(inputs), Input<T>(targets), open_grad_output<T>(grad_output, reduction)};
    constexpr const char* name = "asymmetric_loss_backward";
    if (need_inputs && need_targets) {
      for_each_element<T, 3, 2>(name, inputs.sizes(), Gradient<C, Loss, true, true>{loss, scale}, in,
                                {Output<T>(grad_inputs), Output<T>(grad_targets)}, device);
    } else if (need_inputs) {
      for_each_element<T, 3, 1>(name, inputs.sizes(), Gradient<C, Loss, true, false>{loss, scale}, in,
                                {Output<T>(grad_inputs)}, device);
    } else if (need_targets) {
      for_each_element<T, 3, 1>(name, inputs.sizes(), Gradient<C, Loss, false, true>{loss, scale}, in,
                                {Output<T>(grad_targets)}, device);
    }
  });
  return {grad_inputs, grad_targets};
}

std::tuple<Tensor, Tensor, Tensor> asymmetric_loss_double_backward_cuda(const std::optional<Tensor>& grad_grad_inputs,
                                                                        const std::optional<Tensor>& grad_grad_targets,
                                                                        const Tensor& grad_output, const Tensor& inputs,
                                                                        const Tensor& targets, double gamma_neg,
                                                                        double gamma_pos, double clip,
                                                                        int64_t reduction_code) {
  const Reduction reduction = check_arguments(inputs, targets, reduction_code);
  check_grad_output(grad_output, inputs, reduction);
  if (grad_grad_inputs) check_like(kOp, "grad_grad_inputs", *grad_grad_inputs, "inputs", inputs);
  if (grad_grad_targets) check_like(kOp, "grad_grad_targets", *grad_grad_targets, "inputs", inputs);
  const Tensor grad_grad_output = reduction == Reduction::none ? new_like(inputs) : empty_scalar(inputs);
  const Tensor grad_inputs = new_like(inputs), grad_targets = new_like(targets);
  const DeviceOf device(inputs);
  Tensor zero = empty_scalar(inputs);
  if (!grad_grad_inputs || !grad_grad_targets) torch::stable::zero_(zero);

  with_formula(inputs, gamma_neg, gamma_pos, clip, [&](auto tag, auto loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    using Loss = decltype(loss);
    const C scale = static_cast<C>(reduction_scale(reduction, inputs.numel()));
    const std::array<Input<T>, 5> in{Input<T>(inputs), Input<T>(targets), open_grad_output<T>(grad_output, reduction),
                                     grad_grad_inputs ? Input<T>(*grad_grad_inputs) : Input<T>::scalar(zero),
                                     grad_grad_targets ? Input<T>(*grad_grad_targets) : Input<T>::scalar(zero)};
    const Output<T> out_x(grad_inputs), out_t(grad_targets);
    constexpr const char* name = "asymmetric_loss_double_backward";
    if (reduction == Reduction::none) {
      for_each_element<T, 5, 3>(name, inputs.sizes(), SecondGradient<C, Loss, true>{loss, scale}, in,
                                {out_x, out_t, Output<T>(grad_grad_output)}, device);
    } else {
      sum_over_elements<T, 5, 2>(name, inputs.sizes(), SecondGradient<C, Loss, false>{loss, scale}, in, {out_x, out_t},
                                 device, 1.0, grad_grad_output);
    }
  });
  return {grad_grad_output, grad_inputs, grad_targets};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  library.impl("asymmetric_loss", TORCH_BOX(&handgrad::asymmetric_loss_cuda));
  library.impl("_asymmetric_loss_backward", TORCH_BOX(&handgrad::asymmetric_loss_backward_cuda));
  library.impl("_asymmetric_loss_double_backward", TORCH_BOX(&handgrad::asymmetric_loss_double_backward_cuda));
}
