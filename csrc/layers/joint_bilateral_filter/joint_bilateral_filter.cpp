// The signatures of a bilateral filter, kornia's of this name, with both derivatives with respect to all that it reads.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // guidance: None where the image guides itself. sigma: (images, 3), float64, of colours, of rows and of columns;
  // where it is None all images have shared_sigma, three numbers. kernel_size: rows and columns of a window, both odd.
  // border: 0 reflect, 1 replicate, 2 constant, 3 circular. distance: 0 l1, 1 l2.
  library.def(
      "joint_bilateral_filter(Tensor input, Tensor? guidance, Tensor? sigma, int[] kernel_size, "
      "float[] shared_sigma, int border, int distance) -> Tensor");
  library.def(
      "_joint_bilateral_filter_backward(Tensor grad_output, Tensor input, Tensor? guidance, Tensor? sigma, "
      "int[] kernel_size, float[] shared_sigma, int border, int distance, bool[3] output_mask) -> "
      "(Tensor grad_input, Tensor grad_guidance, Tensor grad_sigma)");
  library.def(
      "_joint_bilateral_filter_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_guidance, "
      "Tensor? grad_grad_sigma, Tensor grad_output, Tensor input, Tensor? guidance, Tensor? sigma, int[] kernel_size, "
      "float[] shared_sigma, int border, int distance, bool[4] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_input, Tensor grad_guidance, Tensor grad_sigma)");
}
