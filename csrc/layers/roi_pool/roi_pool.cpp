// The signatures of RoI pooling, torchvision.ops.roi_pool, with both derivatives with respect to the image.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // boxes: (boxes, 5), each a batch index and x1, y1, x2, y2; in the type that input is computed in.
  library.def("roi_pool(Tensor input, Tensor boxes, int pooled_h, int pooled_w, float spatial_scale) -> Tensor");
  library.def(
      "_roi_pool_backward(Tensor grad_output, Tensor input, Tensor boxes, int pooled_h, int pooled_w, "
      "float spatial_scale, bool[1] output_mask) -> (Tensor grad_input)");
  library.def(
      "_roi_pool_double_backward(Tensor? grad_grad_input, Tensor grad_output, Tensor input, Tensor boxes, int "
      "pooled_h, "
      "int pooled_w, float spatial_scale, bool[2] output_mask) -> (Tensor grad_grad_output, Tensor grad_input)");
}
