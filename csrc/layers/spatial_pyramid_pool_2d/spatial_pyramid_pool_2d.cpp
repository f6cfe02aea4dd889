// The signatures of a spatial pyramid pooling, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // levels: bins along rows and along columns of each.
  library.def("spatial_pyramid_pool_2d(Tensor input, int[] levels, bool average) -> Tensor");
  library.def(
      "_spatial_pyramid_pool_2d_backward(Tensor grad_output, Tensor input, int[] levels, bool average, "
      "bool[1] output_mask) -> (Tensor grad_input)");
  library.def(
      "_spatial_pyramid_pool_2d_double_backward(Tensor? grad_grad_input, Tensor grad_output, Tensor input, "
      "int[] levels, bool average, bool[2] output_mask) -> (Tensor grad_grad_output, Tensor grad_input)");
}
