// Non-maximum suppression of rotated boxes on CUDA devices: greedy suppression (cuda/suppression.cuh) by intersection
// over union.
#include "abi/registration.h"
#include "cuda/suppression.cuh"
#include "rotated_nms_host.h"

namespace handgrad::rotated_nms {
namespace {

struct RotatedRule {
  using Number = double;
  static constexpr int kNumbers = Candidate::kNumbers;
  Suppression rule;

  template <class T>
  __device__ void read(const View<const T, 2>& boxes, int64_t row, double* numbers) const {
    double given[5];
#pragma unroll
    for (int c = 0; c < 5; ++c) given[c] = static_cast<double>(widen(load(boxes.at(row, c))));
    RotatedBox<double> box;
    read_numbers(given, 1, box);
    const Candidate candidate = candidate_of(box);
    write_numbers(candidate.box, numbers, 1);
    numbers[5] = candidate.radius;
  }
  __device__ bool suppresses(const double* earlier, const double* later) const {
    if (!rule.may(earlier[0], earlier[1], earlier[5], later[0], later[1], later[5])) return false;
    RotatedBox<double> a, b;
    read_numbers(earlier, 1, a);
    read_numbers(later, 1, b);
    return rule.decides(a, b);
  }
};

Tensor rotated_nms_cuda(const Tensor& boxes,                // [K, 5]
                        const Tensor& scores,               // [K]
                        const std::optional<Tensor>& idxs,  // [K]
                        double iou_threshold) {
  check_arguments(boxes, scores, idxs);
  if (boxes.size(0) == 0) return empty_indices(0, boxes);
  check_not_captured(kOp, DeviceOf(boxes));
  Tensor output = boxes;
  dispatch_floating(kOp, boxes.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    output = suppression::kept_boxes<T>(kOp, boxes, scores, idxs, RotatedRule{{iou_threshold}});
  });
  return output;
}

}  // namespace
}  // namespace handgrad::rotated_nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::rotated_nms::rotated_nms_cuda>(library, "rotated_nms");
}
