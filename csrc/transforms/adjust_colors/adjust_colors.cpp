// The signatures of a chain of colour operations, of a scale and a normalisation after it: torchvision's functions of
// these names, one after the other, with both derivatives with respect to the image and to the factors.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // operations: (images, steps), int64: 0 nothing, 1 brightness, 2 contrast, 3 saturation, 4 hue, 5 grayscale; factors:
  // (images, steps), float64. What is None is the same for all images: shared_operations, shared_factors. dtype, mean,
  // std, memory_format, scaling: what is made of the result, as resizing ops have it.
  library.def(
      "adjust_colors(Tensor image, Tensor? factors, Tensor? operations, int[] shared_operations, "
      "float[] shared_factors, ScalarType dtype, float[] mean, float[] std, int memory_format, int scaling) -> "
      "Tensor");
  library.def(
      "_adjust_colors_backward(Tensor grad_output, Tensor image, Tensor? factors, Tensor? operations, "
      "int[] shared_operations, float[] shared_factors, ScalarType dtype, float[] mean, float[] std, "
      "int memory_format, int scaling, bool[2] output_mask) -> (Tensor grad_image, Tensor grad_factors)");
  library.def(
      "_adjust_colors_double_backward(Tensor? grad_grad_image, Tensor? grad_grad_factors, Tensor grad_output, "
      "Tensor image, Tensor? factors, Tensor? operations, int[] shared_operations, float[] shared_factors, "
      "ScalarType dtype, float[] mean, float[] std, int memory_format, int scaling, bool[3] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_image, Tensor grad_factors)");
}
