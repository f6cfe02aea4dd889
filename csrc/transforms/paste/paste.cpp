// The signatures of rectangles of images pasted one over another, opaque or blended: what erasing, mixup, cutmix and
// mosaic have in common, with both derivatives with respect to the images and to the opacities.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // rectangles: (images, R, 8), int64, the lowest first: top, left, height and width in the output; which of the four
  // sources, another number is the fill; how many images further on in the group, around its end; and the row and the
  // column of the source that come to the upper left corner. What lies beyond the output or the source is not there.
  // opacity: (images, K), float64, of the K uppermost; the others are opaque. What is None is the same for all images:
  // shared_rectangles, shared_opacity. fill: where nothing is pasted, a number or one a channel. group: how many images
  // in a row belong together; 0 is all of them.
  library.def(
      "paste(Tensor image, Tensor? second, Tensor? third, Tensor? fourth, Tensor? opacity, Tensor? rectangles, "
      "int[] shared_rectangles, float[] shared_opacity, int height, int width, float[] fill, int group) -> Tensor");
  library.def(
      "_paste_backward(Tensor grad_output, Tensor image, Tensor? second, Tensor? third, Tensor? fourth, "
      "Tensor? opacity, Tensor? rectangles, int[] shared_rectangles, float[] shared_opacity, int height, int width, "
      "float[] fill, int group, bool[5] output_mask) -> (Tensor grad_image, Tensor grad_second, Tensor grad_third, "
      "Tensor grad_fourth, Tensor grad_opacity)");
  library.def(
      "_paste_double_backward(Tensor? grad_grad_image, Tensor? grad_grad_second, Tensor? grad_grad_third, "
      "Tensor? grad_grad_fourth, Tensor? grad_grad_opacity, Tensor grad_output, Tensor image, Tensor? second, "
      "Tensor? third, Tensor? fourth, Tensor? opacity, Tensor? rectangles, int[] shared_rectangles, "
      "float[] shared_opacity, int height, int width, float[] fill, int group, bool[6] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_image, Tensor grad_second, Tensor grad_third, Tensor grad_fourth, "
      "Tensor grad_opacity)");
}
