// The signatures of the sums that overlap losses are made of. activation: 0 none, 1 sigmoid, 2 softmax.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("overlap_sums(Tensor inputs, Tensor targets, int activation, int? ignore_index, bool squared) -> Tensor");
  library.def(
      "_overlap_sums_backward(Tensor grad_output, Tensor inputs, Tensor targets, int activation, int? ignore_index, "
      "bool squared, bool[2] output_mask) -> (Tensor grad_inputs, Tensor grad_targets)");
  library.def(
      "_overlap_sums_double_backward(Tensor? grad_grad_inputs, Tensor? grad_grad_targets, Tensor grad_output, "
      "Tensor inputs, Tensor targets, int activation, int? ignore_index, bool squared, bool[3] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_inputs, Tensor grad_targets)");
}
