// The signatures of probabilistic IoU, of all pairs of two tables of rotated boxes.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("probiou(Tensor boxes1, Tensor boxes2, float eps) -> Tensor");
  library.def(
      "_probiou_backward(Tensor grad_output, Tensor boxes1, Tensor boxes2, float eps, bool[2] output_mask) -> (Tensor "
      "grad_boxes1, Tensor grad_boxes2)");
  library.def(
      "_probiou_double_backward(Tensor? grad_grad_boxes1, Tensor? grad_grad_boxes2, Tensor grad_output, Tensor boxes1, "
      "Tensor boxes2, float eps, bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_boxes1, Tensor "
      "grad_boxes2)");
}
