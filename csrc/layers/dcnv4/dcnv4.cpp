// The signatures of DCNv4, a convolution without a weight whose groups look where they are told, and whose masks are
// any numbers, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // offset_mask: in the type that input is computed in.
  library.def(
      "dcnv4(Tensor input, Tensor offset_mask, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, "
      "int pad_w, int dilation_h, int dilation_w, int group, int group_channels, float offset_scale, bool "
      "remove_center) -> Tensor");
  library.def(
      "_dcnv4_backward(Tensor grad_output, Tensor input, Tensor offset_mask, int kernel_h, int kernel_w, int "
      "stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int group, int group_channels, "
      "float offset_scale, bool remove_center, bool[2] output_mask) -> (Tensor grad_input, Tensor grad_offset_mask)");
  library.def(
      "_dcnv4_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_offset_mask, Tensor grad_output, Tensor "
      "input, Tensor offset_mask, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w, int "
      "dilation_h, int dilation_w, int group, int group_channels, float offset_scale, bool remove_center, bool[3] "
      "output_mask) -> (Tensor grad_grad_output, Tensor grad_input, Tensor grad_offset_mask)");
}
