// The signatures of softmax focal loss. reduction: 0 none, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "softmax_focal_loss(Tensor inputs, Tensor targets, Tensor? weight, float gamma, int ignore_index, "
      "float label_smoothing, int reduction) -> Tensor");
  library.def(
      "_softmax_focal_loss_backward(Tensor grad_output, Tensor inputs, Tensor targets, Tensor? weight, float gamma, "
      "int ignore_index, float label_smoothing, int reduction, bool[2] output_mask) "
      "-> (Tensor grad_inputs, Tensor grad_targets)");
  library.def(
      "_softmax_focal_loss_double_backward(Tensor? grad_grad_inputs, Tensor? grad_grad_targets, Tensor grad_output, "
      "Tensor inputs, Tensor targets, Tensor? weight, float gamma, int ignore_index, float label_smoothing, "
      "int reduction, bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_inputs, Tensor grad_targets)");
}
