// The signatures of local response normalisation: torch.nn.functional.local_response_norm, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("local_response_norm(Tensor input, int size, float alpha, float beta, float k) -> Tensor");
  library.def(
      "_local_response_norm_backward(Tensor grad_output, Tensor input, int size, float alpha, float beta, float k, "
      "bool[1] output_mask) -> (Tensor grad_input)");
  library.def(
      "_local_response_norm_double_backward(Tensor? grad_grad_input, Tensor grad_output, Tensor input, int size, "
      "float alpha, float beta, float k, bool[2] output_mask) -> (Tensor grad_grad_output, Tensor grad_input)");
}
