// The signatures of a chain of operations on the tones of images, each channel by itself: torchvision's functions of
// these names, one after the other, with both derivatives with respect to the image.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // operations: (images, steps), int64: 0 nothing, 1 posterize, 2 solarize, 3 invert, 4 autocontrast, 5 equalize;
  // numbers: (images, steps), float64: the bits of posterize, the threshold of solarize. What is None is the same for
  // all images: shared_operations, shared_numbers.
  library.def(
      "adjust_tones(Tensor image, Tensor? numbers, Tensor? operations, int[] shared_operations, "
      "float[] shared_numbers) -> Tensor");
  library.def(
      "_adjust_tones_backward(Tensor grad_output, Tensor image, Tensor? numbers, Tensor? operations, "
      "int[] shared_operations, float[] shared_numbers, bool[1] output_mask) -> (Tensor grad_image)");
  library.def(
      "_adjust_tones_double_backward(Tensor? grad_grad_image, Tensor grad_output, Tensor image, Tensor? numbers, "
      "Tensor? operations, int[] shared_operations, float[] shared_numbers, bool[2] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_image)");
}
