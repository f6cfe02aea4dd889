// The signatures of DCNv3, a convolution without a weight whose groups look where they are told, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // offset and mask: in the type that input is computed in.
  library.def(
      "dcnv3(Tensor input, Tensor offset, Tensor mask, int kernel_h, int kernel_w, int stride_h, int stride_w, int "
      "pad_h, int pad_w, int dilation_h, int dilation_w, int group, int group_channels, float offset_scale, bool "
      "remove_center) -> Tensor");
  library.def(
      "_dcnv3_backward(Tensor grad_output, Tensor input, Tensor offset, Tensor mask, int kernel_h, int kernel_w, "
      "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int group, int "
      "group_channels, float offset_scale, bool remove_center, bool[3] output_mask) -> (Tensor grad_input, Tensor "
      "grad_offset, Tensor grad_mask)");
  library.def(
      "_dcnv3_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_offset, Tensor? grad_grad_mask, Tensor "
      "grad_output, Tensor input, Tensor offset, Tensor mask, int kernel_h, int kernel_w, int stride_h, int "
      "stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int group, int group_channels, float "
      "offset_scale, bool remove_center, bool[4] output_mask) -> (Tensor grad_grad_output, Tensor grad_input, "
      "Tensor grad_offset, Tensor grad_mask)");
}
