// The signatures of crop, resize, flip, scale and normalise in one: torchvision's functions of these names, one after
// the other, with both derivatives with respect to the image.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // boxes: (images, 6), int64, each top, left, height, width, and whether to flip along and across the rows; None where
  // `box`, of the same six, is for all. interpolation: 0 nearest, 1 nearest-exact, 2 bilinear, 3 bicubic. dtype is the
  // result's. memory_format: 0 the image's, 1 contiguous, 2 channels_last. mean and std are empty, or one a channel.
  library.def(
      "resized_crop(Tensor image, Tensor? boxes, int[] box, int height, int width, int interpolation, bool antialias, "
      "ScalarType dtype, float[] mean, float[] std, int memory_format) -> Tensor");
  library.def(
      "_resized_crop_backward(Tensor grad_output, Tensor image, Tensor? boxes, int[] box, int height, int width, "
      "int interpolation, bool antialias, ScalarType dtype, float[] mean, float[] std, int memory_format, "
      "bool[1] output_mask) -> (Tensor grad_image)");
  library.def(
      "_resized_crop_double_backward(Tensor? grad_grad_image, Tensor grad_output, Tensor image, Tensor? boxes, "
      "int[] box, int height, int width, int interpolation, bool antialias, ScalarType dtype, float[] mean, "
      "float[] std, int memory_format, bool[2] output_mask) -> (Tensor grad_grad_output, Tensor grad_image)");
}
