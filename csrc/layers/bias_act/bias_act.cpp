// The signatures of an activation behind a bias, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // x: (batch, channels, positions…); b: (channels), in the type that x is computed in. act: an index of
  // bias_act_math.h; clamp: negative for none.
  library.def("bias_act(Tensor x, Tensor? b, int act, float alpha, float gain, float clamp) -> Tensor");
  library.def(
      "_bias_act_backward(Tensor grad_output, Tensor x, Tensor? b, int act, float alpha, float gain, float clamp, "
      "bool[2] output_mask) -> (Tensor grad_x, Tensor grad_b)");
  library.def(
      "_bias_act_double_backward(Tensor? grad_grad_x, Tensor? grad_grad_b, Tensor grad_output, Tensor x, Tensor? b, "
      "int act, float alpha, float gain, float clamp, bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_x, "
      "Tensor grad_b)");
}
