// The signatures of crop, resize, flip, scale and normalise in one: torchvision's functions of these names, one after
// the other, with both derivatives with respect to the image.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // boxes: (images, 4), int64, each top, left, height, width; flips: (images,), bool. What is None is the same for all:
  // box has the four numbers, and whether to flip left to right and upside down, and then for all images the height and
  // width that the crop is resized to, and the top and left of the window of it, height x width, that is made (and
  // flipped). interpolation: 0 nearest, 1 nearest-exact, 2 bilinear, 3 bicubic. dtype is the result's. memory_format: 0
  // the image's, 1 contiguous, 2 channels_last. mean and std are empty, or one number a channel, or one. pillow:
  // whether integer weights of uint8 images are those of Pillow, not of torch. scaling: of levels that become numbers:
  // 0 times 1/255, 1 divided by 255, 2 as they are.
  library.def(
      "resized_crop(Tensor image, Tensor? boxes, Tensor? horizontal_flips, Tensor? vertical_flips, int[] box, "
      "int height, int width, int interpolation, bool antialias, ScalarType dtype, float[] mean, float[] std, int "
      "memory_format, "
      "bool pillow, int scaling) -> Tensor");
  library.def(
      "_resized_crop_backward(Tensor grad_output, Tensor image, Tensor? boxes, Tensor? horizontal_flips, "
      "Tensor? vertical_flips, int[] box, int height, int width, int interpolation, bool antialias, ScalarType dtype, "
      "float[] mean, float[] std, int memory_format, bool pillow, int scaling, bool[1] output_mask) -> (Tensor "
      "grad_image)");
  library.def(
      "_resized_crop_double_backward(Tensor? grad_grad_image, Tensor grad_output, Tensor image, Tensor? boxes, "
      "Tensor? horizontal_flips, Tensor? vertical_flips, int[] box, int height, int width, int interpolation, "
      "bool antialias, ScalarType dtype, float[] mean, float[] std, int memory_format, bool pillow, int scaling, "
      "bool[2] output_mask) -> (Tensor grad_grad_output, Tensor grad_image)");
}
