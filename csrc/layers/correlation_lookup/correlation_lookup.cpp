// The signatures of a lookup of correlations, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // coords: x, then y, in pixels of fmap2, in the type that fmap1 is computed in.
  library.def("correlation_lookup(Tensor fmap1, Tensor fmap2, Tensor coords, int radius) -> Tensor");
  library.def(
      "_correlation_lookup_backward(Tensor grad_output, Tensor fmap1, Tensor fmap2, Tensor coords, int radius, "
      "bool[3] output_mask) -> (Tensor grad_fmap1, Tensor grad_fmap2, Tensor grad_coords)");
  library.def(
      "_correlation_lookup_double_backward(Tensor? grad_grad_fmap1, Tensor? grad_grad_fmap2, Tensor? grad_grad_coords, "
      "Tensor grad_output, Tensor fmap1, Tensor fmap2, Tensor coords, int radius, bool[4] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_fmap1, Tensor grad_fmap2, Tensor grad_coords)");
}
