// The signatures of RoIAlign, torchvision.ops.roi_align, with derivatives with respect to the image
// and to the boxes' coordinates.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // boxes: (boxes, 5), each a batch index and x1, y1, x2, y2; in the type that input is computed in.
  library.def(
      "roi_align(Tensor input, Tensor boxes, int pooled_h, int pooled_w, float spatial_scale, int sampling_ratio, "
      "bool aligned) -> Tensor");
  library.def(
      "_roi_align_backward(Tensor grad_output, Tensor input, Tensor boxes, int pooled_h, int pooled_w, "
      "float spatial_scale, int sampling_ratio, bool aligned, bool[2] output_mask) -> (Tensor grad_input, "
      "Tensor grad_boxes)");
  library.def(
      "_roi_align_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_boxes, Tensor grad_output, Tensor input, "
      "Tensor boxes, int pooled_h, int pooled_w, float spatial_scale, int sampling_ratio, bool aligned, "
      "bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_input, Tensor grad_boxes)");
}
