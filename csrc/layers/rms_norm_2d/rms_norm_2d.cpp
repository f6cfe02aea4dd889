// The signatures of root mean square normalisation over channels, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("rms_norm_2d(Tensor input, Tensor? weight, float eps) -> Tensor");
  library.def(
      "_rms_norm_2d_backward(Tensor grad_output, Tensor input, Tensor? weight, float eps, bool[2] output_mask) -> "
      "(Tensor grad_input, Tensor grad_weight)");
  library.def(
      "_rms_norm_2d_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_weight, Tensor grad_output, "
      "Tensor input, Tensor? weight, float eps, bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_input, "
      "Tensor grad_weight)");
}
