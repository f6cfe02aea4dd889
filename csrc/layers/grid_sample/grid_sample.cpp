// The signatures of grid_sample, torch.nn.functional.grid_sample, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // grid: in the type that input is computed in. mode: 0 bilinear, 1 nearest, 2 bicubic; padding_mode: 0 zeros, 1
  // border, 2 reflection, as torch numbers them.
  library.def("grid_sample(Tensor input, Tensor grid, int mode, int padding_mode, bool align_corners) -> Tensor");
  library.def(
      "_grid_sample_backward(Tensor grad_output, Tensor input, Tensor grid, int mode, int padding_mode, "
      "bool align_corners, bool[2] output_mask) -> (Tensor grad_input, Tensor grad_grid)");
  library.def(
      "_grid_sample_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_grid, Tensor grad_output, "
      "Tensor input, Tensor grid, int mode, int padding_mode, bool align_corners, bool[3] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_input, Tensor grad_grid)");
}
