// The signatures of RoIAlign, torchvision.ops.roi_align, with derivatives by the image and by the boxes' coordinates.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // boxes: (boxes, 5), each the number of an image and x1, y1, x2, y2; in the type that input is computed in.
  library.def(
      "roi_align(Tensor input, Tensor boxes, int pooled_h, int pooled_w, float spatial_scale, int sampling_ratio, "
      "bool aligned) -> Tensor");
  // Without boxes_grad, grad_boxes is a tensor without elements.
  library.def(
      "_roi_align_backward(Tensor grad_output, Tensor input, Tensor boxes, int pooled_h, int pooled_w, "
      "float spatial_scale, int sampling_ratio, bool aligned, bool boxes_grad) -> (Tensor grad_input, "
      "Tensor grad_boxes)");
  library.def(
      "_roi_align_double_backward(Tensor grad_grad_input, Tensor grad_grad_boxes, Tensor grad_output, Tensor input, "
      "Tensor boxes, int pooled_h, int pooled_w, float spatial_scale, int sampling_ratio, bool aligned) -> "
      "(Tensor grad_grad_output, Tensor grad_input, Tensor grad_boxes)");
}
