// The signatures of the loss of SigLIP. reduction: 0 none, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "siglip_loss(Tensor queries, Tensor? keys, Tensor scale, Tensor bias, "
      "int offset, int reduction) -> Tensor");
  library.def(
      "_siglip_loss_backward(Tensor grad_output, Tensor queries, Tensor? keys, Tensor scale, Tensor bias, "
      "int offset, int reduction, bool[4] output_mask) "
      "-> (Tensor grad_queries, Tensor grad_keys, Tensor grad_scale, Tensor grad_bias)");
  library.def(
      "_siglip_loss_double_backward(Tensor? grad_grad_queries, Tensor? grad_grad_keys, Tensor? grad_grad_scale, "
      "Tensor? grad_grad_bias, "
      "Tensor grad_output, Tensor queries, Tensor? keys, Tensor scale, Tensor bias, "
      "int offset, int reduction, bool[5] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_queries, Tensor grad_keys, Tensor grad_scale, Tensor grad_bias)");
}
