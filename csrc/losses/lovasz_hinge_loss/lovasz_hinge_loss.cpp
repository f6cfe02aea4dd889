// The signatures of the Lovász hinge loss, of (groups, samples, 1, positions…).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("lovasz_hinge_loss(Tensor inputs, Tensor targets, Tensor? weight, int? ignore_index) -> Tensor");
  library.def(
      "_lovasz_hinge_loss_backward(Tensor grad_output, Tensor inputs, Tensor targets, Tensor? weight, "
      "int? ignore_index, bool[1] output_mask) -> (Tensor grad_inputs)");
  library.def(
      "_lovasz_hinge_loss_double_backward(Tensor? grad_grad_inputs, Tensor grad_output, Tensor inputs, "
      "Tensor targets, Tensor? weight, int? ignore_index, bool[2] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_inputs)");
}
