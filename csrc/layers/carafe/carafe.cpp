// The signatures of a reassembly of features by predicted kernels, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("carafe(Tensor features, Tensor masks, int kernel_size, int group_size, int scale_factor) -> Tensor");
  library.def(
      "_carafe_backward(Tensor grad_output, Tensor features, Tensor masks, int kernel_size, int group_size, "
      "int scale_factor, bool[2] output_mask) -> (Tensor grad_features, Tensor grad_masks)");
  library.def(
      "_carafe_double_backward(Tensor? grad_grad_features, Tensor? grad_grad_masks, Tensor grad_output, "
      "Tensor features, Tensor masks, int kernel_size, int group_size, int scale_factor, bool[3] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_features, Tensor grad_masks)");
}
