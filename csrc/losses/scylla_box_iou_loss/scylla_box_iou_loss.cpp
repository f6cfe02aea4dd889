// The signatures of SIoU loss. reduction: 0 none, 1 mean, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("scylla_box_iou_loss(Tensor boxes1, Tensor boxes2, float eps, int reduction) -> Tensor");
  library.def(
      "_scylla_box_iou_loss_backward(Tensor grad_output, Tensor boxes1, Tensor boxes2, float eps, int reduction, "
      "bool[2] output_mask) -> (Tensor grad_boxes1, Tensor grad_boxes2)");
  library.def(
      "_scylla_box_iou_loss_double_backward(Tensor? grad_grad_boxes1, Tensor? grad_grad_boxes2, Tensor "
      "grad_output, Tensor boxes1, Tensor boxes2, float eps, int reduction, bool[3] output_mask) -> (Tensor "
      "grad_grad_output, Tensor grad_boxes1, Tensor grad_boxes2)");
}
