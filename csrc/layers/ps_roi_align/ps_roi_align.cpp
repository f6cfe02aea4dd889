// The signatures of position-sensitive RoIAlign, torchvision.ops.ps_roi_align, with both derivatives with respect to
// the image.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // boxes: (boxes, 5), each a batch index and x1, y1, x2, y2; in the type that input is computed in.
  library.def(
      "ps_roi_align(Tensor input, Tensor boxes, int pooled_h, int pooled_w, float spatial_scale, int sampling_ratio) "
      "-> Tensor");
  library.def(
      "_ps_roi_align_backward(Tensor grad_output, Tensor input, Tensor boxes, int pooled_h, int pooled_w, float "
      "spatial_scale, int sampling_ratio, bool[1] output_mask) -> (Tensor grad_input)");
  library.def(
      "_ps_roi_align_double_backward(Tensor? grad_grad_input, Tensor grad_output, Tensor input, Tensor boxes, int "
      "pooled_h, int pooled_w, float spatial_scale, int sampling_ratio, bool[2] output_mask) -> (Tensor "
      "grad_grad_output, Tensor grad_input)");
}
