// The signatures of a Gaussian blur, torchvision's of this name, with both derivatives with respect to the image and to
// sigma.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // sigma: (images, 2), float64, of columns and of rows. Where it is None all images have shared_sigma, two numbers.
  // kernel_size: taps along a row, and along a column; both odd.
  library.def("gaussian_blur(Tensor image, Tensor? sigma, int[] kernel_size, float[] shared_sigma) -> Tensor");
  library.def(
      "_gaussian_blur_backward(Tensor grad_output, Tensor image, Tensor? sigma, int[] kernel_size, "
      "float[] shared_sigma, bool[2] output_mask) -> (Tensor grad_image, Tensor grad_sigma)");
  library.def(
      "_gaussian_blur_double_backward(Tensor? grad_grad_image, Tensor? grad_grad_sigma, Tensor grad_output, "
      "Tensor image, Tensor? sigma, int[] kernel_size, float[] shared_sigma, bool[3] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_image, Tensor grad_sigma)");
}
