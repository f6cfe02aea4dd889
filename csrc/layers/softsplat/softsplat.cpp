// The signatures of softmax splatting, forward warping by a flow, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // flow: x, then y, in pixels; it and metric in the type that input is computed in. mode: 0 sum, 1 average, 2 linear,
  // 3 softmax; metric is None for the first two. normalization: 0 addeps, 1 zeroeps, 2 clipeps.
  library.def("softsplat(Tensor input, Tensor flow, Tensor? metric, int mode, int normalization, float eps) -> Tensor");
  library.def(
      "_softsplat_backward(Tensor grad_output, Tensor input, Tensor flow, Tensor? metric, int mode, "
      "int normalization, float eps, bool[3] output_mask) -> (Tensor grad_input, Tensor grad_flow, "
      "Tensor grad_metric)");
  library.def(
      "_softsplat_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_flow, Tensor? grad_grad_metric, "
      "Tensor grad_output, Tensor input, Tensor flow, Tensor? metric, int mode, int normalization, float eps, "
      "bool[4] output_mask) -> (Tensor grad_grad_output, Tensor grad_input, Tensor grad_flow, Tensor grad_metric)");
}
