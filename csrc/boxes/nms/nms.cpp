// The signature of non-maximum suppression: torchvision.ops.nms, and batched_nms where `idxs` says which boxes compete.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  library.def("nms(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold) -> Tensor");
}
