// The signature of Matrix NMS (Wang et al., 2020), linear or gaussian, of masks.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "mask_matrix_nms(Tensor masks, Tensor scores, Tensor labels, Tensor? areas, float? min_score, int? most, "
      "int? max_num, float sigma, bool gaussian) -> (Tensor indices, Tensor final_scores)");
}
