// The signatures of a leaky ReLU at a higher rate of samples, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // fu, fd: (rows, columns), or (taps), which serve both axes; b: (channels). All three in the type that x is computed
  // in; the filters have no gradients. padding: before and after x, before and after y; clamp: negative for none.
  library.def(
      "filtered_lrelu(Tensor x, Tensor fu, Tensor fd, Tensor? b, int up, int down, int[] padding, float gain, float "
      "slope, float clamp, bool flip_filter) -> Tensor");
  library.def(
      "_filtered_lrelu_backward(Tensor grad_output, Tensor x, Tensor fu, Tensor fd, Tensor? b, int up, int down, int[] "
      "padding, float gain, float slope, float clamp, bool flip_filter, bool[2] output_mask) -> (Tensor grad_x, Tensor "
      "grad_b)");
  // Almost everywhere the gradients depend on grad_output alone; the one of x is zeros.
  library.def(
      "_filtered_lrelu_double_backward(Tensor? grad_grad_x, Tensor? grad_grad_b, Tensor grad_output, Tensor x, Tensor "
      "fu, Tensor fd, Tensor? b, int up, int down, int[] padding, float gain, float slope, float clamp, bool "
      "flip_filter, bool[2] output_mask) -> (Tensor grad_grad_output, Tensor grad_x)");
}
