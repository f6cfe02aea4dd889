// The signatures of a correlation of two feature maps, with both derivatives. Each list: of rows, and of columns.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "correlation(Tensor input1, Tensor input2, int[] kernel_size, int[] max_displacement, int[] stride, "
      "int[] padding, int[] dilation, int[] dilation_patch, bool normalize) -> Tensor");
  library.def(
      "_correlation_backward(Tensor grad_output, Tensor input1, Tensor input2, int[] kernel_size, "
      "int[] max_displacement, int[] stride, int[] padding, int[] dilation, int[] dilation_patch, bool normalize, "
      "bool[2] output_mask) -> (Tensor grad_input1, Tensor grad_input2)");
  library.def(
      "_correlation_double_backward(Tensor? grad_grad_input1, Tensor? grad_grad_input2, Tensor grad_output, "
      "Tensor input1, Tensor input2, int[] kernel_size, int[] max_displacement, int[] stride, int[] padding, "
      "int[] dilation, int[] dilation_patch, bool normalize, bool[3] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_input1, Tensor grad_input2)");
}
