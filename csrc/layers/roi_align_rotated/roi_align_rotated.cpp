// The signatures of RoIAlign of rotated boxes, detectron2's and mmcv's, with derivatives with respect to the image and
// to the boxes' centres, extents and angles.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // boxes: (boxes, 6), each a batch index, the centre's x and y, width, height and an angle in degrees; in the type
  // that input is computed in.
  library.def(
      "roi_align_rotated(Tensor input, Tensor boxes, int pooled_h, int pooled_w, float spatial_scale, "
      "int sampling_ratio, bool aligned, bool clockwise) -> Tensor");
  library.def(
      "_roi_align_rotated_backward(Tensor grad_output, Tensor input, Tensor boxes, int pooled_h, int pooled_w, "
      "float spatial_scale, int sampling_ratio, bool aligned, bool clockwise, bool[2] output_mask) -> "
      "(Tensor grad_input, Tensor grad_boxes)");
  library.def(
      "_roi_align_rotated_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_boxes, Tensor grad_output, "
      "Tensor input, Tensor boxes, int pooled_h, int pooled_w, float spatial_scale, int sampling_ratio, bool aligned, "
      "bool clockwise, bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_input, Tensor grad_boxes)");
}
