// Losses of inputs and targets, element by element, with a reduction: everything of their host entries but the formula.
//
// An op gives `with_formula(body)`, which calls body(tag, loss) with the element type and the loss in the type that it
// is computed in: an object with value(x, t), slope(x, t) {inputs, targets}, curvature(x, t) {inputs_inputs,
// inputs_targets, targets_targets}, and scaled(factor), the same loss times a number.
//
// Every pass reads inputs and targets once and writes what was asked for: nothing is saved between passes, because
// computing an element again is cheaper than reading an intermediate back from memory.
#pragma once

#include <optional>

#include "abi/reduction.h"
#include "cpu/elementwise.h"

namespace handgrad::elementwise_loss {

// ---- what the host entries of all devices need ----------------------------------------------------------------------

inline Reduction check_arguments(const char* op, const Tensor& inputs, const Tensor& targets, int64_t reduction) {
  check_floating(op, "inputs", inputs);
  check_like(op, "targets", targets, "inputs", inputs);
  return as_reduction(op, reduction);
}

inline void check_grad_output(const char* op, const Tensor& grad_output, const Tensor& inputs, Reduction reduction) {
  if (reduction == Reduction::none) {
    check_like(op, "grad_output", grad_output, "inputs", inputs);
  } else {
    HANDGRAD_CHECK(grad_output.numel() == 1 && grad_output.scalar_type() == inputs.scalar_type(), op,
                   ": grad_output must be one element of the dtype of inputs; got ", shape_text(grad_output), " of ",
                   dtype_text(grad_output.scalar_type()));
  }
}

inline Reduction check_backward(const char* op, const Tensor& grad_output, const Tensor& inputs, const Tensor& targets,
                                int64_t reduction_code) {
  const Reduction reduction = check_arguments(op, inputs, targets, reduction_code);
  check_grad_output(op, grad_output, inputs, reduction);
  return reduction;
}

inline Reduction check_double_backward(const char* op, const std::optional<Tensor>& grad_grad_inputs,
                                       const std::optional<Tensor>& grad_grad_targets, const Tensor& grad_output,
                                       const Tensor& inputs, const Tensor& targets, int64_t reduction_code) {
  const Reduction reduction = check_backward(op, grad_output, inputs, targets, reduction_code);
  if (grad_grad_inputs) check_like(op, "grad_grad_inputs", *grad_grad_inputs, "inputs", inputs);
  if (grad_grad_targets) check_like(op, "grad_grad_targets", *grad_grad_targets, "inputs", inputs);
  return reduction;
}

// One number, or one for each element.
inline Tensor empty_loss(const Tensor& inputs, Reduction reduction) {
  return reduction == Reduction::none ? new_like(inputs) : empty_scalar(inputs);
}

// The head of the backward: the checks, and then its outputs to be filled.
struct Backward {
  Reduction reduction;
  Tensor grad_inputs, grad_targets;

  Backward(const char* op, const Tensor& grad_output, const Tensor& inputs, const Tensor& targets,
           int64_t reduction_code, bool need_inputs, bool need_targets)
      : Backward(check_backward(op, grad_output, inputs, targets, reduction_code), inputs, targets, need_inputs,
                 need_targets) {}

 protected:
  Backward(Reduction checked, const Tensor& inputs, const Tensor& targets, bool need_inputs, bool need_targets)
      : reduction(checked),
        grad_inputs(need_inputs ? new_like(inputs) : empty_placeholder(inputs)),
        grad_targets(need_targets ? new_like(targets) : empty_placeholder(targets)) {}
};

// The same for the double backward.
struct DoubleBackward : Backward {
  Tensor grad_grad_output;

  DoubleBackward(const char* op, const std::optional<Tensor>& grad_grad_inputs,
                 const std::optional<Tensor>& grad_grad_targets, const Tensor& grad_output, const Tensor& inputs,
                 const Tensor& targets, int64_t reduction_code)
      : Backward(check_double_backward(op, grad_grad_inputs, grad_grad_targets, grad_output, inputs, targets,
                                       reduction_code),
                 inputs, targets, true, true),
        grad_grad_output(empty_loss(inputs, reduction)) {}
};

template <class T>
Input<T> open_grad_output(const Tensor& grad_output, Reduction reduction) {
  return reduction == Reduction::none ? Input<T>(grad_output) : Input<T>::scalar(grad_output);
}

// ---- host entries on the CPU ----------------------------------------------------------------------------------------

template <class WithFormula>
Tensor forward_cpu(const char* op, const Tensor& inputs, const Tensor& targets, int64_t reduction_code,
                   const WithFormula& with_formula) {
  const Reduction reduction = check_arguments(op, inputs, targets, reduction_code);
  const Tensor output = empty_loss(inputs, reduction);

  with_formula([&](auto tag, auto loss) {
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

template <class WithFormula>
std::tuple<Tensor, Tensor> backward_cpu(const char* op, const Tensor& grad_output, const Tensor& inputs,
                                        const Tensor& targets, int64_t reduction_code, bool need_inputs,
                                        bool need_targets, const WithFormula& with_formula) {
  const Backward call(op, grad_output, inputs, targets, reduction_code, need_inputs, need_targets);

  with_formula([&](auto tag, auto plain_loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const auto loss = plain_loss.scaled(reduction_scale(call.reduction, inputs.numel()));
    const Input<T> x(inputs), t(targets), g = open_grad_output<T>(grad_output, call.reduction);
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
      for_each_block(inputs.sizes(), kernel, x, t, g, Output<T>(call.grad_inputs), Output<T>(call.grad_targets));
    } else if (need_inputs) {
      const auto kernel = [loss](int64_t count, const C* x, const C* t, const C* g, C* grad_x) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) grad_x[i] = g[i] * loss.slope(x[i], t[i]).inputs;
      };
      for_each_block(inputs.sizes(), kernel, x, t, g, Output<T>(call.grad_inputs));
    } else if (need_targets) {
      const auto kernel = [loss](int64_t count, const C* x, const C* t, const C* g, C* grad_t) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) grad_t[i] = g[i] * loss.slope(x[i], t[i]).targets;
      };
      for_each_block(inputs.sizes(), kernel, x, t, g, Output<T>(call.grad_targets));
    }
  });
  return {call.grad_inputs, call.grad_targets};
}

template <class WithFormula>
std::tuple<Tensor, Tensor, Tensor> double_backward_cpu(const char* op, const std::optional<Tensor>& grad_grad_inputs,
                                                       const std::optional<Tensor>& grad_grad_targets,
                                                       const Tensor& grad_output, const Tensor& inputs,
                                                       const Tensor& targets, int64_t reduction_code,
                                                       const WithFormula& with_formula) {
  const DoubleBackward call(op, grad_grad_inputs, grad_grad_targets, grad_output, inputs, targets, reduction_code);

  with_formula([&](auto tag, auto plain_loss) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const auto loss = plain_loss.scaled(reduction_scale(call.reduction, inputs.numel()));
    const Input<T> x(inputs), t(targets), g = open_grad_output<T>(grad_output, call.reduction);
    // A missing direction is zero for all elements.
    const Tensor zero = empty_scalar(inputs);
    *zero.mutable_data_ptr<T>() = narrow<T>(C(0));
    const Input<T> u = grad_grad_inputs ? Input<T>(*grad_grad_inputs) : Input<T>::scalar(zero);
    const Input<T> v = grad_grad_targets ? Input<T>(*grad_grad_targets) : Input<T>::scalar(zero);
    const Output<T> out_x(call.grad_inputs), out_t(call.grad_targets);

    // The one element's share: the slope along (u, v), and the Hessian times (u, v).
    const auto element = [loss](C x, C t, C g, C u, C v, C& grad_x, C& grad_t) {
      const auto slope = loss.slope(x, t);
      const auto curvature = loss.curvature(x, t);
      grad_x = g * (curvature.inputs_inputs * u + curvature.inputs_targets * v);
      grad_t = g * (curvature.inputs_targets * u + curvature.targets_targets * v);
      return slope.inputs * u + slope.targets * v;
    };
    if (call.reduction == Reduction::none) {
      const auto kernel = [element](int64_t count, const C* x, const C* t, const C* g, const C* u, const C* v,
                                    C* grad_x, C* grad_t, C* grad_g) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) grad_g[i] = element(x[i], t[i], g[i], u[i], v[i], grad_x[i], grad_t[i]);
      };
      for_each_block(inputs.sizes(), kernel, x, t, g, u, v, out_x, out_t, Output<T>(call.grad_grad_output));
    } else {
      const auto kernel = [element](int64_t count, const C* x, const C* t, const C* g, const C* u, const C* v,
                                    C* grad_x, C* grad_t) {
        C total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < count; ++i) total += element(x[i], t[i], g[i], u[i], v[i], grad_x[i], grad_t[i]);
        return total;
      };
      *call.grad_grad_output.mutable_data_ptr<T>() =
          narrow<T>(static_cast<C>(sum_over_blocks(inputs.sizes(), kernel, x, t, g, u, v, out_x, out_t)));
    }
  });
  return {call.grad_grad_output, call.grad_inputs, call.grad_targets};
}

}  // namespace handgrad::elementwise_loss
