// The signatures of multi-similarity loss; without an epsilon no pairs are mined. The result is each anchor's loss and
// 1, the number of terms that it counts for.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "multi_similarity_loss(Tensor embeddings, Tensor labels, float alpha, float beta, float base, bool mines, "
      "float epsilon) -> Tensor");
  library.def(
      "_multi_similarity_loss_backward(Tensor grad_output, Tensor embeddings, Tensor labels, float alpha, float beta, "
      "float base, bool mines, float epsilon, bool[1] output_mask) -> (Tensor grad_embeddings)");
  library.def(
      "_multi_similarity_loss_double_backward(Tensor? grad_grad_embeddings, Tensor grad_output, Tensor embeddings, "
      "Tensor labels, float alpha, float beta, float base, bool mines, float epsilon, bool[2] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_embeddings)");
}
