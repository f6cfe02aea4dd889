// The signatures of probabilistic IoU loss. reduction: 0 none, 1 mean, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("probiou_loss(Tensor boxes1, Tensor boxes2, float eps, int reduction) -> Tensor");
  library.def(
      "_probiou_loss_backward(Tensor grad_output, Tensor boxes1, Tensor boxes2, float eps, int reduction, bool[2] "
      "output_mask) -> (Tensor grad_boxes1, Tensor grad_boxes2)");
  library.def(
      "_probiou_loss_double_backward(Tensor? grad_grad_boxes1, Tensor? grad_grad_boxes2, Tensor grad_output, Tensor "
      "boxes1, Tensor boxes2, float eps, int reduction, bool[3] output_mask) -> (Tensor grad_grad_output, Tensor "
      "grad_boxes1, Tensor grad_boxes2)");
}
