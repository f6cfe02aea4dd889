// The signatures of the infogain loss. reduction: 0 none, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("infogain_loss(Tensor inputs, Tensor targets, Tensor matrix, int ignore_index, int reduction) -> Tensor");
  library.def(
      "_infogain_loss_backward(Tensor grad_output, Tensor inputs, Tensor targets, Tensor matrix, int ignore_index, "
      "int reduction, bool[2] output_mask) -> (Tensor grad_inputs, Tensor grad_matrix)");
  library.def(
      "_infogain_loss_double_backward(Tensor? grad_grad_inputs, Tensor? grad_grad_matrix, Tensor grad_output, "
      "Tensor inputs, Tensor targets, Tensor matrix, int ignore_index, int reduction, bool[3] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_inputs, Tensor grad_matrix)");
}
