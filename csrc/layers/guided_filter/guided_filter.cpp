// The signatures of a guided filter, kornia's guided_blur of one number for each argument, with both derivatives with
// respect to all that it reads.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // input: None where the guidance is filtered itself. eps: (images,), float64; where it is None all images have
  // shared_eps. kernel_size: rows and columns of a window, both odd. border: 0 reflect, 1 replicate, 2 constant,
  // 3 circular.
  library.def(
      "guided_filter(Tensor guidance, Tensor? input, Tensor? eps, int[] kernel_size, float shared_eps, int border, "
      "int subsample) -> Tensor");
  library.def(
      "_guided_filter_backward(Tensor grad_output, Tensor guidance, Tensor? input, Tensor? eps, int[] kernel_size, "
      "float shared_eps, int border, int subsample, bool[3] output_mask) -> "
      "(Tensor grad_guidance, Tensor grad_input, Tensor grad_eps)");
  library.def(
      "_guided_filter_double_backward(Tensor? grad_grad_guidance, Tensor? grad_grad_input, Tensor? grad_grad_eps, "
      "Tensor grad_output, Tensor guidance, Tensor? input, Tensor? eps, int[] kernel_size, float shared_eps, "
      "int border, int subsample, bool[4] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_guidance, Tensor grad_input, Tensor grad_eps)");
}
