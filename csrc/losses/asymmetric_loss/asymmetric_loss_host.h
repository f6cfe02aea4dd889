// What the host entries of all devices need: the choice of the formula.
#pragma once

#include "asymmetric_loss_math.h"
#include "kinds/elementwise_loss.h"

namespace handgrad::asymmetric_loss {

inline constexpr const char* kOp = "asymmetric_loss";

// What calls body(tag, loss) with the element type of `inputs` and the formula for these gammas.
inline auto with_formula(const Tensor& inputs, double gamma_neg, double gamma_pos, double clip) {
  return [&inputs, gamma_neg, gamma_pos, clip](const auto& body) {
    const auto product = [](double gamma) { return gamma >= 0 && gamma <= 7 && gamma == static_cast<int>(gamma); };
    return dispatch_floating(kOp, inputs.scalar_type(), [&](auto tag) {
      return dispatch_bool(product(gamma_neg) && product(gamma_pos), [&](auto products) {
        using C = Compute<typename decltype(tag)::type>;
        return body(tag, AsymmetricLoss<C, decltype(products)::value>(gamma_neg, gamma_pos, clip));
      });
    });
  };
}

}  // namespace handgrad::asymmetric_loss
