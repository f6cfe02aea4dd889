// The signature of soft non-maximum suppression (Bodla et al., 2017), linear or gaussian.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "soft_nms(Tensor boxes, Tensor scores, float iou_threshold, float sigma, float min_score, bool gaussian) -> "
      "(Tensor indices, Tensor final_scores)");
}
