// The signatures of margin softmax loss. `losses`, in the private ops, is what the forward has returned; without it
// they compute it again. The forward knows nothing of it.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "margin_softmax_loss(Tensor embeddings, Tensor weight, Tensor targets, Tensor? losses, float scale, float m1, "
      "float m2, float m3, int ignore_index) -> Tensor");
  library.def(
      "_margin_softmax_loss_backward(Tensor grad_output, Tensor embeddings, Tensor weight, Tensor targets, "
      "Tensor? losses, float scale, float m1, float m2, float m3, int ignore_index, bool[2] output_mask) "
      "-> (Tensor grad_embeddings, Tensor grad_weight)");
  library.def(
      "_margin_softmax_loss_double_backward(Tensor? grad_grad_embeddings, Tensor? grad_grad_weight, "
      "Tensor grad_output, Tensor embeddings, Tensor weight, Tensor targets, Tensor? losses, float scale, float m1, "
      "float m2, float m3, int ignore_index, bool[3] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_embeddings, Tensor grad_weight)");
}
