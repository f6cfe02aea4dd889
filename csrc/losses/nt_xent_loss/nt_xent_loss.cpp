// The signatures of NT-Xent. reduction: 0 none, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "nt_xent_loss(Tensor queries, Tensor? keys, Tensor scale, "
      "int offset, int reduction) -> Tensor");
  library.def(
      "_nt_xent_loss_backward(Tensor grad_output, Tensor queries, Tensor? keys, Tensor scale, "
      "int offset, int reduction, bool[3] output_mask) "
      "-> (Tensor grad_queries, Tensor grad_keys, Tensor grad_scale)");
  library.def(
      "_nt_xent_loss_double_backward(Tensor? grad_grad_queries, Tensor? grad_grad_keys, Tensor? grad_grad_scale, "
      "Tensor grad_output, Tensor queries, Tensor? keys, Tensor scale, "
      "int offset, int reduction, bool[4] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_queries, Tensor grad_keys, Tensor grad_scale)");
}
