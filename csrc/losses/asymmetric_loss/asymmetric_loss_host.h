// What the host entries of all devices need: the checks, and the choice of the formula.
#pragma once

#include "asymmetric_loss_math.h"

#include "check.h"
#include "elementwise.h"
#include "reduction.h"

namespace handgrad::asymmetric_loss {

inline constexpr const char* kOp = "asymmetric_loss";

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

// Calls body(tag, loss) with the element type of `inputs` and the formula in the type it is computed in.
template <class Body>
auto with_formula(const Tensor& inputs, double gamma_neg, double gamma_pos, double clip, const Body& body) {
  return dispatch_floating(kOp, inputs.scalar_type(), [&](auto tag) {
    const auto product = [](double gamma) { return gamma >= 0 && gamma <= 7 && gamma == static_cast<int>(gamma); };
    return dispatch_bool(product(gamma_neg) && product(gamma_pos), [&](auto products) {
      using C = Compute<typename decltype(tag)::type>;
      return body(tag, AsymmetricLoss<C, decltype(products)::value>(gamma_neg, gamma_pos, clip));
    });
  });
}

template <class T>
Input<T> open_grad_output(const Tensor& grad_output, Reduction reduction) {
  return reduction == Reduction::none ? Input<T>(grad_output) : Input<T>::scalar(grad_output);
}

}  // namespace handgrad::asymmetric_loss
