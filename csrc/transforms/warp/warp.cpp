// The signatures of an image that is read at the positions that a matrix makes of the output's: torchvision's affine,
// rotate and perspective, with both derivatives with respect to the image and to the matrix.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // matrix: (images, 2 or 3, 3), float64, from (x, y, 1) in the output to where the image is read; three rows divide by
  // the third. None is the same for all images: numbers has the six or nine. interpolation: 0 nearest, 1 bilinear.
  // fill: what is around the image, a number or one a channel; none is zero, and no mask. centered: whether positions
  // are counted from the centres of output and image, or from their corners.
  library.def(
      "warp(Tensor image, Tensor? matrix, float[] numbers, int height, int width, int interpolation, float[] fill, "
      "bool centered) -> Tensor");
  library.def(
      "_warp_backward(Tensor grad_output, Tensor image, Tensor? matrix, float[] numbers, int height, int width, "
      "int interpolation, float[] fill, bool centered, bool[2] output_mask) -> (Tensor grad_image, Tensor "
      "grad_matrix)");
  library.def(
      "_warp_double_backward(Tensor? grad_grad_image, Tensor? grad_grad_matrix, Tensor grad_output, Tensor image, "
      "Tensor? matrix, float[] numbers, int height, int width, int interpolation, float[] fill, bool centered, "
      "bool[3] output_mask) -> (Tensor grad_grad_output, Tensor grad_image, Tensor grad_matrix)");
}
