// The signatures of the Lovász-softmax loss, of (groups, samples, classes, positions…).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "lovasz_softmax_loss(Tensor inputs, Tensor targets, Tensor? weight, bool from_logits, bool skip_absent, "
      "int? ignore_index) -> Tensor");
  library.def(
      "_lovasz_softmax_loss_backward(Tensor grad_output, Tensor inputs, Tensor targets, Tensor? weight, "
      "bool from_logits, bool skip_absent, int? ignore_index, bool[1] output_mask) -> (Tensor grad_inputs)");
  library.def(
      "_lovasz_softmax_loss_double_backward(Tensor? grad_grad_inputs, Tensor grad_output, Tensor inputs, "
      "Tensor targets, Tensor? weight, bool from_logits, bool skip_absent, int? ignore_index, bool[2] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_inputs)");
}
