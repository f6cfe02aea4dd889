// The signatures of structural similarity. sigma: 0, a uniform window. padding: 0 valid, 1 reflect, 2 zeros. reduced:
// the mean over the windows of each plane, in place of a map.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "ssim(Tensor input, Tensor target, int window_size, float sigma, int padding, bool reduced, float c1, float c2) "
      "-> Tensor");
  library.def(
      "_ssim_backward(Tensor grad_output, Tensor input, Tensor target, int window_size, float sigma, int padding, "
      "bool reduced, float c1, float c2, bool[2] output_mask) -> (Tensor grad_input, Tensor grad_target)");
  library.def(
      "_ssim_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_target, Tensor grad_output, Tensor input, "
      "Tensor target, int window_size, float sigma, int padding, bool reduced, float c1, float c2, "
      "bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_input, Tensor grad_target)");
}
