// Matrix NMS of boxes on CUDA devices: decay of scores (cuda/score_decay.cuh) by intersections over unions. A lane of
// the warp that has a box takes every 32nd of those before it.
#include "abi/registration.h"
#include "cuda/boxes.cuh"
#include "cuda/score_decay.cuh"
#include "matrix_nms_host.h"

namespace handgrad::matrix_nms {
namespace {

constexpr int kThreads = 256;

// By row: x1, y1, x2, y2, the area; one array behind the other.
template <class C>
struct BoxOverlaps {
  C* values;
  int64_t count;

  __device__ C value(int which, int64_t i) const { return load(values + which * count + i); }
  __device__ Box<C> box(int64_t i) const { return {value(0, i), value(1, i), value(2, i), value(3, i)}; }

  template <class Visit>
  __device__ void for_each(int64_t row, int64_t begin, int lane, const Visit& visit) const {
    const Box<C> own = box(row);
    const C area = value(4, row);
    for (int64_t i = begin + lane; i < row; i += kWarpSize) {
      const C shared = intersection_of(own, box(i));
      if (shared > 0) visit(i, overlap(shared, area, value(4, i)));
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sort_boxes_kernel(View<const T, 2> boxes, score_decay::Order order, BoxOverlaps<Compute<T>> sorted) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= order.count) return;
  C area;
  const Box<C> box = load_proper_box(boxes, order.item(row), area);
  const C numbers[] = {box.x1, box.y1, box.x2, box.y2, area};
#pragma unroll
  for (int which = 0; which < 5; ++which) store(sorted.values + which * sorted.count + row, numbers[which]);
}

template <class C>
struct SortedBoxes {
  Tensor memory;
  BoxOverlaps<C> kernel;
};

std::tuple<Tensor, Tensor> matrix_nms_cuda(const Tensor& boxes,                // [K, 4]
                                           const Tensor& scores,               // [K]
                                           const std::optional<Tensor>& idxs,  // [K]
                                           std::optional<double> score_threshold, std::optional<double> min_score,
                                           double sigma, bool gaussian) {
  check_arguments(boxes, scores, idxs);
  const int64_t count = boxes.size(0);
  if (count == 0) return {empty_indices(0, boxes), empty_contiguous(scores.sizes(), scores)};
  const DeviceOf device(boxes);
  std::tuple<Tensor, Tensor> result{boxes, scores};
  score_decay::with_decay(kOp, boxes, sigma, gaussian, [&](auto tag, auto decay) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const auto overlaps = [&](const score_decay::Order& order) {
      const Tensor memory = empty_vector<C>(5 * order.count, boxes);
      const BoxOverlaps<C> sorted{memory.template mutable_data_ptr<C>(), order.count};
      launch("matrix_nms: sort_boxes", sort_boxes_kernel<T>, device, blocks_for(order.count, kThreads),
             view<T, 2>(boxes), order, sorted);
      return SortedBoxes<C>{memory, sorted};
    };
    const score_decay::Limits<C> limits(score_threshold, min_score);
    result = score_decay::decayed_scores<T>(kOp, device, scores, idxs, limits, {count, count}, decay, overlaps);
  });
  return result;
}

}  // namespace
}  // namespace handgrad::matrix_nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::matrix_nms::matrix_nms_cuda>(library, "matrix_nms");
}
