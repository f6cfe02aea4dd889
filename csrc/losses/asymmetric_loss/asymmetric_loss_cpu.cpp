// Asymmetric loss on the CPU. Every pass reads inputs and targets once and writes what was asked for: nothing is saved
// between passes, because computing an element again is cheaper than reading an intermediate back from memory.
#include "asymmetric_loss_host.h"

#include "elementwise.h"

namespace handgrad {
namespace {

using namespace asymmetric_loss;

Tensor asymmetric_loss_cpu(const Tensor& inputs, const Tensor& targets, double gamma_neg, double gamma_pos, double clip,
                           int64_t reduction_code) {
  const Reduction reduction = check_arguments(inputs, targets, reduction_code);
  const Tensor output = reduction == Reduction::none ? new_like(inputs) : empty_scalar(inputs);

  with_formula(inputs, gamma_neg, gamma_pos, clip, [&](auto tag, auto loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    if (reduction == Reduction::none) {
      const auto kernel = [loss](int64_t count, const C* x, const C* t, C* out) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) out[i] = loss.value(x[i], t[i]);
      };
      for_each_block(inputs.sizes(), kernel, Input<T>(inputs), Input<T>(targets), Output<T>(output));
    } else {
      const auto kernel = [loss](int64_t count, const C* x, const C* t) {
        C total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < count; ++i) total += loss.value(x[i], t[i]);
        return total;
      };
      const double total = sum_over_blocks(inputs.sizes(), kernel, Input<T>(inputs), Input<T>(targets));
      const int64_t n = inputs.numel();
      *output.mutable_data_ptr<T>() =
          narrow<T>(static_cast<C>(reduction == Reduction::mean ? total / static_cast<double>(n) : total));
    }
  });
  return output;
}

std::tuple<Tensor, Tensor> asymmetric_loss_backward_cpu(const Tensor& grad_output, const Tensor& inputs,
                                                        const Tensor& targets, double gamma_neg, double gamma_pos,
                                                        double clip, int64_t reduction_code, bool need_inputs,
                                                        bool need_targets) {
  const Reduction reduction = check_arguments(inputs, targets, reduction_code);
  check_grad_output(grad_output, inputs, reduction);
  const Tensor grad_inputs = need_inputs ? new_like(inputs) : empty_placeholder(inputs);
  const Tensor grad_targets = need_targets ? new_like(targets) : empty_placeholder(targets);

  with_formula(inputs, gamma_neg, gamma_pos, clip, [&](auto tag, auto plain_loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const auto loss = plain_loss.scaled(reduction_scale(reduction, inputs.numel()));
    const Input<T> x(inputs), t(targets), g = open_grad_output<T>(grad_output, reduction);
    // One loop for each question, so that the half of the slope that nobody asked for is not computed.
    if (need_inputs && need_targets) {
      const auto kernel = [loss](int64_t count, const C* x, const C* t, const C* g, C* grad_x, C* grad_t) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) {
          const auto slope = loss.slope(x[i], t[i]);
          grad_x[i] = g[i] * slope.inputs;
          grad_t[i] = g[i] * slope.targets;
        }
      };
      for_each_block(inputs.sizes(), kernel, x, t, g, Output<T>(grad_inputs), Output<T>(grad_targets));
    } else if (need_inputs) {
      const auto kernel = [loss](int64_t count, const C* x, const C* t, const C* g, C* grad_x) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) grad_x[i] = g[i] * loss.slope(x[i], t[i]).inputs;
      };
      for_each_block(inputs.sizes(), kernel, x, t, g, Output<T>(grad_inputs));
    } else if (need_targets) {
      const auto kernel = [loss](int64_t count, const C* x, const C* t, const C* g, C* grad_t) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) grad_t[i] = g[i] * loss.slope(x[i], t[i]).targets;
      };
      for_each_block(inputs.sizes(), kernel, x, t, g, Output<T>(grad_targets));
    }
  });
  return {grad_inputs, grad_targets};
}

std::tuple<Tensor, Tensor, Tensor> asymmetric_loss_double_backward_cpu(const std::optional<Tensor>& grad_grad_inputs,
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

  with_formula(inputs, gamma_neg, gamma_pos, clip, [&](auto tag, auto plain_loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const auto loss = plain_loss.scaled(reduction_scale(reduction, inputs.numel()));
    const Input<T> x(inputs), t(targets), g = open_grad_output<T>(grad_output, reduction);
    // A missing direction is zero for all elements.
    const Tensor zero = empty_scalar(inputs);
    *zero.mutable_data_ptr<T>() = narrow<T>(C(0));
    const Input<T> u = grad_grad_inputs ? Input<T>(*grad_grad_inputs) : Input<T>::scalar(zero);
    const Input<T> v = grad_grad_targets ? Input<T>(*grad_grad_targets) : Input<T>::scalar(zero);
    const Output<T> out_x(grad_inputs), out_t(grad_targets);

    // The one element's share: the slope along (u, v), and the Hessian times (u, v).
    const auto element = [loss](C x, C t, C g, C u, C v, C& grad_x, C& grad_t) {
      const auto slope = loss.slope(x, t);
      const auto curvature = loss.curvature(x, t);
      grad_x = g * (curvature.inputs_inputs * u + curvature.inputs_targets * v);
      grad_t = g * (curvature.inputs_targets * u + curvature.targets_targets * v);
      return slope.inputs * u + slope.targets * v;
    };
    if (reduction == Reduction::none) {
      const auto kernel = [element](int64_t count, const C* x, const C* t, const C* g, const C* u, const C* v,
                                    C* grad_x, C* grad_t, C* grad_g) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) grad_g[i] = element(x[i], t[i], g[i], u[i], v[i], grad_x[i], grad_t[i]);
      };
      for_each_block(inputs.sizes(), kernel, x, t, g, u, v, out_x, out_t, Output<T>(grad_grad_output));
    } else {
      const auto kernel = [element](int64_t count, const C* x, const C* t, const C* g, const C* u, const C* v,
                                    C* grad_x, C* grad_t) {
        C total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < count; ++i) total += element(x[i], t[i], g[i], u[i], v[i], grad_x[i], grad_t[i]);
        return total;
      };
      *grad_grad_output.mutable_data_ptr<T>() =
          narrow<T>(static_cast<C>(sum_over_blocks(inputs.sizes(), kernel, x, t, g, u, v, out_x, out_t)));
    }
  });
  return {grad_grad_output, grad_inputs, grad_targets};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  library.impl("asymmetric_loss", TORCH_BOX(&handgrad::asymmetric_loss_cpu));
  library.impl("_asymmetric_loss_backward", TORCH_BOX(&handgrad::asymmetric_loss_backward_cpu));
  library.impl("_asymmetric_loss_double_backward", TORCH_BOX(&handgrad::asymmetric_loss_double_backward_cpu));
}
