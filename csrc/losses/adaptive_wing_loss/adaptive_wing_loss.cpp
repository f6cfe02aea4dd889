// The signatures of adaptive wing loss. reduction: 0 none, 1 mean, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "adaptive_wing_loss(Tensor inputs, Tensor targets, float alpha, float omega, float epsilon, float theta, int "
      "reduction) -> Tensor");
  library.def(
      "_adaptive_wing_loss_backward(Tensor grad_output, Tensor inputs, Tensor targets, float alpha, float omega, float "
      "epsilon, float theta, int reduction, "
      "bool[2] output_mask) -> (Tensor grad_inputs, Tensor grad_targets)");
  library.def(
      "_adaptive_wing_loss_double_backward(Tensor? grad_grad_inputs, Tensor? grad_grad_targets, Tensor grad_output, "
      "Tensor inputs, Tensor targets, float alpha, float omega, float epsilon, float theta, int reduction, bool[3] "
      "output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_inputs, Tensor grad_targets)");
}
