// Non-maximum suppression on CUDA devices: greedy suppression (cuda/suppression.cuh) by intersection over union.
#include "abi/registration.h"
#include "cuda/boxes.cuh"
#include "cuda/suppression.cuh"
#include "nms_host.h"

namespace handgrad::nms {
namespace {

// A box' corners and its area.
template <class C>
struct CornersRule {
  using Number = C;
  static constexpr int kNumbers = 5;
  Suppression<C> rule;

  template <class T>
  __device__ void read(const View<const T, 2>& boxes, int64_t row, C* numbers) const {
    const Box<C> box = load_proper_box(boxes, row, numbers[4]);
    numbers[0] = box.x1, numbers[1] = box.y1, numbers[2] = box.x2, numbers[3] = box.y2;
  }
  __device__ bool suppresses(const C* a, const C* b) const {
    const Meeting<C> meeting(Box<C>{a[0], a[1], a[2], a[3]}, Box<C>{b[0], b[1], b[2], b[3]});
    if (!meeting.is_there()) return false;
    const C shared = meeting.area();
    const C whole = union_of(a[4], b[4], shared);
    return rule.may(shared, whole) && rule.decides(shared, whole);
  }
};

Tensor nms_cuda(const Tensor& boxes,                // [K, 4]
                const Tensor& scores,               // [K]
                const std::optional<Tensor>& idxs,  // [K]
                double iou_threshold) {
  check_arguments(boxes, scores, idxs);
  if (boxes.size(0) == 0) return empty_indices(0, boxes);
  check_not_captured(kOp, DeviceOf(boxes));
  Tensor output = boxes;
  dispatch_floating(kOp, boxes.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const CornersRule<Compute<T>> rule{Suppression<Compute<T>>(iou_threshold)};
    output = suppression::kept_boxes<T>(kOp, boxes, scores, idxs, rule);
  });
  return output;
}

}  // namespace
}  // namespace handgrad::nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::nms::nms_cuda>(library, "nms");
}
