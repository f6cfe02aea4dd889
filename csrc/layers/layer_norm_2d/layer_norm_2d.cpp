// The signatures of layer normalisation over channels, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("layer_norm_2d(Tensor input, Tensor? weight, Tensor? bias, float eps) -> Tensor");
  library.def(
      "_layer_norm_2d_backward(Tensor grad_output, Tensor input, Tensor? weight, float eps, bool[3] output_mask) -> "
      "(Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  library.def(
      "_layer_norm_2d_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_weight, Tensor? grad_grad_bias, "
      "Tensor grad_output, Tensor input, Tensor? weight, float eps, bool[3] output_mask) -> (Tensor grad_grad_output, "
      "Tensor grad_input, Tensor grad_weight)");
}
