// The signatures of global response normalisation, with both derivatives. Channels are normalised in so many groups.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("global_response_norm(Tensor input, Tensor? weight, Tensor? bias, float eps, int groups) -> Tensor");
  library.def(
      "_global_response_norm_backward(Tensor grad_output, Tensor input, Tensor? weight, float eps, int groups, "
      "bool[3] output_mask) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  library.def(
      "_global_response_norm_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_weight, "
      "Tensor? grad_grad_bias, Tensor grad_output, Tensor input, Tensor? weight, float eps, int groups, "
      "bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_input, Tensor grad_weight)");
}
