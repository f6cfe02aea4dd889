// The signatures of an image that is read beside its pixels, each moved by a displacement of its own: torchvision's
// elastic, with both derivatives with respect to the image and to the displacement.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // displacement: (batch, height, width, 2), right and down, in halves of the image's width and height; float64 beside
  // float64 images, otherwise float32. interpolation: 0 nearest, 1 bilinear. fill: what is around the image, a number
  // or one a channel; none is zero, and no mask.
  library.def("elastic(Tensor image, Tensor displacement, int interpolation, float[] fill) -> Tensor");
  library.def(
      "_elastic_backward(Tensor grad_output, Tensor image, Tensor displacement, int interpolation, float[] fill, "
      "bool[2] output_mask) -> (Tensor grad_image, Tensor grad_displacement)");
  library.def(
      "_elastic_double_backward(Tensor? grad_grad_image, Tensor? grad_grad_displacement, Tensor grad_output, "
      "Tensor image, Tensor displacement, int interpolation, float[] fill, bool[3] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_image, Tensor grad_displacement)");
}
