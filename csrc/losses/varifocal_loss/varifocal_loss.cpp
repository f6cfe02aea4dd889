// The signatures of varifocal loss. reduction: 0 none, 1 mean, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "varifocal_loss(Tensor inputs, Tensor targets, float alpha, float gamma, bool iou_weighted, int reduction) -> "
      "Tensor");
  library.def(
      "_varifocal_loss_backward(Tensor grad_output, Tensor inputs, Tensor targets, float alpha, float gamma, bool "
      "iou_weighted, "
      "int reduction, bool[2] output_mask) -> (Tensor grad_inputs, Tensor grad_targets)");
  library.def(
      "_varifocal_loss_double_backward(Tensor? grad_grad_inputs, Tensor? grad_grad_targets, Tensor grad_output, "
      "Tensor inputs, Tensor targets, float alpha, float gamma, bool iou_weighted, int reduction, bool[3] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_inputs, Tensor grad_targets)");
}
