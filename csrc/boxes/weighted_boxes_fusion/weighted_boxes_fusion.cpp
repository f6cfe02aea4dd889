// The signature of weighted boxes fusion (Solovyev et al., 2021).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def(
      "weighted_boxes_fusion(Tensor boxes, Tensor scores, Tensor labels, Tensor models, float[] weights, "
      "float iou_threshold, float skip_box_threshold, int conf_type, bool allows_overflow) -> "
      "(Tensor fused_boxes, Tensor fused_scores, Tensor fused_labels)");
}
