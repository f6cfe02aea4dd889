// What the host entries of all devices need: the checks, and the choice of the formula.
#pragma once

#include "check.h"
#include "elementwise.h"
#include "reduction.h"
#include "sigmoid_focal_loss_math.h"

namespace handgrad::sigmoid_focal_loss {

inline constexpr const char* kOp = "sigmoid_focal_loss";

inline Reduction check_arguments(const Tensor& inputs, const Tensor& targets, int64_t reduction) {
  check_floating(kOp, "inputs", inputs);
  check_like(kOp, "targets", targets, "inputs", inputs);
  return as_reduction(kOp, reduction);
}

inline void check_grad_output(const Tensor& grad_output, const Tensor& inputs, Reduction reduction) {
  if (reduction == Reduction::none) {
    check_like(kOp, "grad_output", grad_output, "inputs", inputs);
  } else {
    HANDGRAD_CHECK(grad_output.numel() == 1 && grad_output.scalar_type() == inputs.scalar_type(), kOp,
                   ": grad_output must be one element of the dtype of inputs; got ", shape_text(grad_output), " of ",
                   dtype_text(grad_output.scalar_type()));
  }
}

// The head of the backward on every device: the checks, and its outputs to be filled.
struct Backward {
  Reduction reduction;
  Tensor grad_inputs, grad_targets;

  Backward(const Tensor& grad_output, const Tensor& inputs, const Tensor& targets, int64_t reduction_code,
           bool need_inputs, bool need_targets)
      : reduction(check_arguments(inputs, targets, reduction_code)),
        grad_inputs(need_inputs ? new_like(inputs) : empty_placeholder(inputs)),
        grad_targets(need_targets ? new_like(targets) : empty_placeholder(targets)) {
    check_grad_output(grad_output, inputs, reduction);
  }
};

// The same for the double backward.
struct DoubleBackward : Backward {
  Tensor grad_grad_output;

  DoubleBackward(const std::optional<Tensor>& grad_grad_inputs, const std::optional<Tensor>& grad_grad_targets,
                 const Tensor& grad_output, const Tensor& inputs, const Tensor& targets, int64_t reduction_code)
      : Backward(grad_output, inputs, targets, reduction_code, true, true),
        grad_grad_output(reduction == Reduction::none ? new_like(inputs) : empty_scalar(inputs)) {
    if (grad_grad_inputs) check_like(kOp, "grad_grad_inputs", *grad_grad_inputs, "inputs", inputs);
    if (grad_grad_targets) check_like(kOp, "grad_grad_targets", *grad_grad_targets, "inputs", inputs);
  }
};

// Calls body(tag, loss) with the element type of `inputs` and the formula for this gamma.
template <class Body>
auto with_formula(const Tensor& inputs, double alpha, double gamma, const Body& body) {
  return dispatch_floating(kOp, inputs.scalar_type(), [&](auto tag) {
    return dispatch_bool(gamma == 2, [&](auto gamma_is_two) {
      using C = Compute<typename decltype(tag)::type>;
      return body(tag, SigmoidFocalLoss<C, decltype(gamma_is_two)::value>(alpha, gamma));
    });
  });
}

template <class T>
Input<T> open_grad_output(const Tensor& grad_output, Reduction reduction) {
  return reduction == Reduction::none ? Input<T>(grad_output) : Input<T>::scalar(grad_output);
}

}  // namespace handgrad::sigmoid_focal_loss
