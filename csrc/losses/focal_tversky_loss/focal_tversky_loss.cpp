// The signatures of focal Tversky loss, as a function of the sums of each class. reduction: 0 none, 1 mean, 2 sum.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "focal_tversky_loss(Tensor sums, float alpha, float beta, float gamma, float smooth, float eps, bool "
      "skip_absent, int reduction) -> Tensor");
  library.def(
      "_focal_tversky_loss_backward(Tensor grad_output, Tensor sums, float alpha, float beta, float gamma, float "
      "smooth, float eps, "
      "bool skip_absent, int reduction, bool[1] output_mask) -> (Tensor grad_sums)");
  library.def(
      "_focal_tversky_loss_double_backward(Tensor? grad_grad_sums, Tensor grad_output, Tensor sums, "
      "float alpha, float beta, float gamma, float smooth, float eps, bool skip_absent, int reduction, bool[2] "
      "output_mask) "
      "-> (Tensor grad_grad_output, Tensor grad_sums)");
}
