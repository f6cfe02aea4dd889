// The signatures of IoU loss of rotated boxes, plain or generalized. reduction: 0 none, 1 mean, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "rotated_box_iou_loss(Tensor boxes1, Tensor boxes2, float eps, bool generalized, int reduction) -> Tensor");
  library.def(
      "_rotated_box_iou_loss_backward(Tensor grad_output, Tensor boxes1, Tensor boxes2, float eps, bool generalized, "
      "int reduction, bool[2] output_mask) -> (Tensor grad_boxes1, Tensor grad_boxes2)");
  library.def(
      "_rotated_box_iou_loss_double_backward(Tensor? grad_grad_boxes1, Tensor? grad_grad_boxes2, Tensor grad_output, "
      "Tensor boxes1, Tensor boxes2, float eps, bool generalized, int reduction, bool[3] output_mask) -> (Tensor "
      "grad_grad_output, Tensor grad_boxes1, Tensor grad_boxes2)");
}
