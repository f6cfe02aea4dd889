// The signatures of QuickGELU.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("quick_gelu(Tensor input, float alpha) -> Tensor");
  library.def(
      "_quick_gelu_backward(Tensor grad_output, Tensor input, float alpha, bool[1] output_mask) -> (Tensor "
      "grad_input)");
  library.def(
      "_quick_gelu_double_backward(Tensor? grad_grad_input, Tensor grad_output, Tensor input, float alpha, "
      "bool[2] output_mask) -> (Tensor grad_grad_output, Tensor grad_input)");
}
