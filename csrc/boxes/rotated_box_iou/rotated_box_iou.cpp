// The signatures of IoU of rotated boxes, of all pairs of two tables of them.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("rotated_box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  library.def(
      "_rotated_box_iou_backward(Tensor grad_output, Tensor boxes1, Tensor boxes2, bool[2] output_mask) -> (Tensor "
      "grad_boxes1, Tensor grad_boxes2)");
  library.def(
      "_rotated_box_iou_double_backward(Tensor? grad_grad_boxes1, Tensor? grad_grad_boxes2, Tensor grad_output, Tensor "
      "boxes1, Tensor boxes2, bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_boxes1, Tensor "
      "grad_boxes2)");
}
