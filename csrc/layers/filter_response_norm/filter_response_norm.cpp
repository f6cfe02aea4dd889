// The signatures of filter response normalisation, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "filter_response_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? tau, Tensor? learned_eps, float eps) "
      "-> Tensor");
  library.def(
      "_filter_response_norm_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor? tau, "
      "Tensor? learned_eps, float eps, bool[5] output_mask) -> (Tensor grad_input, Tensor grad_weight, Tensor "
      "grad_bias, Tensor grad_tau, Tensor grad_learned_eps)");
  library.def(
      "_filter_response_norm_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_weight, Tensor? "
      "grad_grad_bias, Tensor? grad_grad_tau, Tensor? grad_grad_learned_eps, Tensor grad_output, Tensor input, Tensor? "
      "weight, Tensor? bias, Tensor? tau, Tensor? learned_eps, float eps, bool[4] output_mask) -> (Tensor "
      "grad_grad_output, Tensor grad_input, Tensor grad_weight, Tensor grad_learned_eps)");
}
