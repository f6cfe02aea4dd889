// The signature of Matrix NMS (Wang et al., 2020), linear or gaussian, of boxes.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "matrix_nms(Tensor boxes, Tensor scores, Tensor? idxs, float? score_threshold, float? min_score, float sigma, "
      "bool gaussian) -> (Tensor indices, Tensor final_scores)");
}
