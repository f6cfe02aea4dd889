// The signature of non-maximum suppression of rotated boxes, and of batches where `idxs` says which boxes compete.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("rotated_nms(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold) -> Tensor");
}
