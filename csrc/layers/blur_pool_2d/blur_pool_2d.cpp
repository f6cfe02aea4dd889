// The signatures of a blur before a stride: Zhang's antialiased pooling, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // taps: of both axes. padding: before and after, of both axes. border: 0 zeros, 1 a mirror, 2 the nearest sample.
  library.def("blur_pool_2d(Tensor input, float[] taps, int stride, int[] padding, int border) -> Tensor");
  library.def(
      "_blur_pool_2d_backward(Tensor grad_output, Tensor input, float[] taps, int stride, int[] padding, int border, "
      "bool[1] output_mask) -> (Tensor grad_input)");
  library.def(
      "_blur_pool_2d_double_backward(Tensor? grad_grad_input, Tensor grad_output, Tensor input, float[] taps, "
      "int stride, int[] padding, int border, bool[2] output_mask) -> (Tensor grad_grad_output, Tensor grad_input)");
}
