// The signatures of a median filter, kornia's median_blur, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // kernel_size: rows and columns of a window, both odd. border: 0 reflect, 1 replicate, 2 constant, 3 circular.
  library.def("median_filter(Tensor input, int[] kernel_size, int border) -> Tensor");
  library.def(
      "_median_filter_backward(Tensor grad_output, Tensor input, int[] kernel_size, int border, bool[1] output_mask) "
      "-> (Tensor grad_input)");
  library.def(
      "_median_filter_double_backward(Tensor? grad_grad_input, Tensor grad_output, Tensor input, int[] kernel_size, "
      "int border, bool[2] output_mask) -> (Tensor grad_grad_output, Tensor grad_input)");
}
