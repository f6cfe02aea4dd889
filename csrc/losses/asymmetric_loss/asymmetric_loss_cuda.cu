// Asymmetric loss on CUDA devices: the host entries of elementwise_loss.cuh, with this formula.
#include "abi/registration.h"
#include "asymmetric_loss_host.h"
#include "kinds/elementwise_loss.cuh"

namespace handgrad {
namespace {

using namespace asymmetric_loss;

Tensor asymmetric_loss_cuda(const Tensor& inputs, const Tensor& targets, double gamma_neg, double gamma_pos,
                            double clip, int64_t reduction_code) {
  return elementwise_loss::forward_cuda(kOp, inputs, targets, reduction_code,
                                        with_formula(inputs, gamma_neg, gamma_pos, clip));
}

std::tuple<Tensor, Tensor> asymmetric_loss_backward_cuda(const Tensor& grad_output, const Tensor& inputs,
                                                         const Tensor& targets, double gamma_neg, double gamma_pos,
                                                         double clip, int64_t reduction_code,
                                                         const std::vector<bool>& output_mask) {
  return elementwise_loss::backward_cuda(kOp, grad_output, inputs, targets, reduction_code, output_mask,
                                         with_formula(inputs, gamma_neg, gamma_pos, clip));
}

std::tuple<Tensor, Tensor, Tensor> asymmetric_loss_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_inputs, const std::optional<Tensor>& grad_grad_targets,
    const Tensor& grad_output, const Tensor& inputs, const Tensor& targets, double gamma_neg, double gamma_pos,
    double clip, int64_t reduction_code, const std::vector<bool>& output_mask) {
  return elementwise_loss::double_backward_cuda(kOp, grad_grad_inputs, grad_grad_targets, grad_output, inputs, targets,
                                                reduction_code, output_mask,
                                                with_formula(inputs, gamma_neg, gamma_pos, clip));
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::asymmetric_loss_cuda>(library, "asymmetric_loss");
  handgrad::implement<handgrad::asymmetric_loss_backward_cuda>(library, "_asymmetric_loss_backward");
  handgrad::implement<handgrad::asymmetric_loss_double_backward_cuda>(library, "_asymmetric_loss_double_backward");
}
