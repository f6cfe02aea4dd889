// The signatures of deformable convolution, torchvision.ops.deform_conv2d, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, int stride_h, "
      "int stride_w, int padding_h, int padding_w, int dilation_h, int dilation_w) -> Tensor");
  library.def(
      "_deform_conv2d_backward(Tensor grad_output, Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
      "int stride_h, int stride_w, int padding_h, int padding_w, int dilation_h, int dilation_w, bool deterministic, "
      "bool[5] output_mask) -> (Tensor grad_input, Tensor grad_offset, Tensor grad_weight, Tensor grad_bias, "
      "Tensor grad_mask)");
  library.def(
      "_deform_conv2d_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_offset, Tensor? grad_grad_weight, "
      "Tensor? grad_grad_bias, Tensor? grad_grad_mask, Tensor grad_output, Tensor input, Tensor offset, Tensor weight, "
      "Tensor? mask, int stride_h, int stride_w, int padding_h, int padding_w, int dilation_h, int dilation_w, "
      "bool deterministic, bool[5] output_mask) -> (Tensor grad_grad_output, Tensor grad_input, Tensor grad_offset, "
      "Tensor grad_weight, Tensor grad_mask)");
}
