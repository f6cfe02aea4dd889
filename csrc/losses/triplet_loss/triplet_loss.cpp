// The signatures of triplet loss. mining: 0 the hardest triplet of each anchor, 1 all, 2 all that cost something. The
// result is each anchor's loss and the number of triplets that it is a sum of.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "triplet_loss(Tensor embeddings, Tensor labels, float margin, bool soft, int mining, bool squared) -> Tensor");
  library.def(
      "_triplet_loss_backward(Tensor grad_output, Tensor embeddings, Tensor labels, float margin, bool soft, "
      "int mining, bool squared, bool[1] output_mask) -> (Tensor grad_embeddings)");
  library.def(
      "_triplet_loss_double_backward(Tensor? grad_grad_embeddings, Tensor grad_output, Tensor embeddings, "
      "Tensor labels, float margin, bool soft, int mining, bool squared, bool[2] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_embeddings)");
}
