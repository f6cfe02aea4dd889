// Sigmoid focal loss on the CPU: the host entries of elementwise_loss.h, with this formula.
#include "abi/registration.h"
#include "kinds/elementwise_loss.h"
#include "sigmoid_focal_loss_host.h"

namespace handgrad {
namespace {

using namespace sigmoid_focal_loss;

Tensor sigmoid_focal_loss_cpu(const Tensor& inputs, const Tensor& targets, double alpha, double gamma,
                              int64_t reduction_code) {
  return elementwise_loss::forward_cpu(kOp, inputs, targets, reduction_code, with_formula(inputs, alpha, gamma));
}

std::tuple<Tensor, Tensor> sigmoid_focal_loss_backward_cpu(const Tensor& grad_output, const Tensor& inputs,
                                                           const Tensor& targets, double alpha, double gamma,
                                                           int64_t reduction_code,
                                                           const std::vector<bool>& output_mask) {
  return elementwise_loss::backward_cpu(kOp, grad_output, inputs, targets, reduction_code, output_mask,
                                        with_formula(inputs, alpha, gamma));
}

std::tuple<Tensor, Tensor, Tensor> sigmoid_focal_loss_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_inputs, const std::optional<Tensor>& grad_grad_targets,
    const Tensor& grad_output, const Tensor& inputs, const Tensor& targets, double alpha, double gamma,
    int64_t reduction_code, const std::vector<bool>& output_mask) {
  return elementwise_loss::double_backward_cpu(kOp, grad_grad_inputs, grad_grad_targets, grad_output, inputs, targets,
                                               reduction_code, output_mask, with_formula(inputs, alpha, gamma));
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::sigmoid_focal_loss_cpu>(library, "sigmoid_focal_loss");
  handgrad::implement<handgrad::sigmoid_focal_loss_backward_cpu>(library, "_sigmoid_focal_loss_backward");
  handgrad::implement<handgrad::sigmoid_focal_loss_double_backward_cpu>(library, "_sigmoid_focal_loss_double_backward");
}
