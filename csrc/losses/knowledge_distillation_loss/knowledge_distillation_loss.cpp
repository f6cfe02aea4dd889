// The signatures of the knowledge distillation loss. reduction: 0 none, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "knowledge_distillation_loss(Tensor student, Tensor teacher, float temperature, int reduction) -> Tensor");
  library.def(
      "_knowledge_distillation_loss_backward(Tensor grad_output, Tensor student, Tensor teacher, float temperature, "
      "int reduction, bool[2] output_mask) -> (Tensor grad_student, Tensor grad_teacher)");
  library.def(
      "_knowledge_distillation_loss_double_backward(Tensor? grad_grad_student, Tensor? grad_grad_teacher, "
      "Tensor grad_output, Tensor student, Tensor teacher, float temperature, int reduction, bool[3] output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_student, Tensor grad_teacher)");
}
