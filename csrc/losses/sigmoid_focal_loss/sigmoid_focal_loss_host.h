// What the host entries of all devices need: the choice of the formula.
#pragma once

#include "kinds/elementwise_loss.h"
#include "sigmoid_focal_loss_math.h"

namespace handgrad::sigmoid_focal_loss {

inline constexpr const char* kOp = "sigmoid_focal_loss";

// What calls body(tag, loss) with the element type of `inputs` and the formula for this gamma.
inline auto with_formula(const Tensor& inputs, double alpha, double gamma) {
  return [&inputs, alpha, gamma](const auto& body) {
    return dispatch_floating(kOp, inputs.scalar_type(), [&](auto tag) {
      return dispatch_bool(gamma == 2, [&](auto gamma_is_two) {
        using C = Compute<typename decltype(tag)::type>;
        return body(tag, SigmoidFocalLoss<C, decltype(gamma_is_two)::value>(alpha, gamma));
      });
    });
  };
}

}  // namespace handgrad::sigmoid_focal_loss
