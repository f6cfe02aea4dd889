// The signatures of multi-scale structural similarity: for each plane the means of all scales, of contrast, and of the
// index at the coarsest, (N, C, scales). sigma: 0, a uniform window.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "ms_ssim(Tensor input, Tensor target, int window_size, float sigma, int scales, float c1, float c2) -> Tensor");
  library.def(
      "_ms_ssim_backward(Tensor grad_output, Tensor input, Tensor target, int window_size, float sigma, int scales, "
      "float c1, float c2, bool[2] output_mask) -> (Tensor grad_input, Tensor grad_target)");
  library.def(
      "_ms_ssim_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_target, Tensor grad_output, Tensor input, "
      "Tensor target, int window_size, float sigma, int scales, float c1, float c2, bool[3] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_input, Tensor grad_target)");
}
