// The signatures of a blend of an image with a blurred one, torchvision's of this name, with both derivatives with
// respect to the image and to the factor.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // factor: (images,), float64. Where it is None all images have shared_factor.
  library.def("adjust_sharpness(Tensor image, Tensor? factor, float shared_factor) -> Tensor");
  library.def(
      "_adjust_sharpness_backward(Tensor grad_output, Tensor image, Tensor? factor, float shared_factor, "
      "bool[2] output_mask) -> (Tensor grad_image, Tensor grad_factor)");
  library.def(
      "_adjust_sharpness_double_backward(Tensor? grad_grad_image, Tensor? grad_grad_factor, Tensor grad_output, "
      "Tensor image, Tensor? factor, float shared_factor, bool[3] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_image, Tensor grad_factor)");
}
