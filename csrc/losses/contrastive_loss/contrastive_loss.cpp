// The signatures of the contrastive loss. reduction: 0 none, 1 mean, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "contrastive_loss(Tensor input1, Tensor input2, Tensor targets, float margin, bool legacy, int reduction) -> "
      "Tensor");
  library.def(
      "_contrastive_loss_backward(Tensor grad_output, Tensor input1, Tensor input2, Tensor targets, float margin, "
      "bool legacy, int reduction, bool[2] output_mask) -> (Tensor grad_input1, Tensor grad_input2)");
  library.def(
      "_contrastive_loss_double_backward(Tensor? grad_grad_input1, Tensor? grad_grad_input2, Tensor grad_output, "
      "Tensor input1, Tensor input2, Tensor targets, float margin, bool legacy, int reduction, bool[3] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_input1, Tensor grad_input2)");
}
