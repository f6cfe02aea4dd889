// Weighted boxes fusion on CUDA devices. Boxes are sorted by label, and within a label by decreasing score; a block of
// threads takes a label, box by box, since each may move a fused box that the next is compared with. The fused boxes
// are compared by all threads of the block, the cluster changed by one. Blocks whose number is not the first box of a
// label have nothing to do: how many labels there are is not known on the host.
//
// The host waits for one number, how many clusters there are, because the results have that size.
#include "abi/registration.h"
#include "cuda/boxes.cuh"
#include "cuda/item.cuh"
#include "cuda/launch.cuh"
#include "cuda/sort.cuh"
#include "weighted_boxes_fusion_host.h"

namespace handgrad::weighted_boxes_fusion {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;

template <class T>
struct Operands {
  View<const T, 2> boxes;                 // [K, 4]
  View<const T, 1> scores;                // [K]
  View<const int64_t, 1> labels, models;  // [K]
  int64_t count;
};

// Score times weight of every box that counts; minus infinity, which sorts behind all, of the others; NaN, which sorts
// before all, of one whose model has no weight.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    weigh_kernel(Operands<T> operands, Confidence<Compute<T>> confidence, Compute<T> least, int64_t models,
                 Compute<T>* weighted) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= operands.count) return;
  C area;
  load_proper_box(operands.boxes, i, area);
  const C score = widen(load(operands.scores.at(i)));
  const int64_t model = load(operands.models.at(i));
  if (model < 0 || model >= models) {
    store(weighted + i, std::numeric_limits<C>::quiet_NaN());
    return;
  }
  // Written so that NaN is out.
  const bool counts = score >= least && area > 0;
  store(weighted + i, counts ? score * confidence.weights[model] : -std::numeric_limits<C>::infinity());
}

// Keys whose decreasing order is the increasing one of labels.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    label_kernel(Operands<T> operands, const int64_t* order, int64_t* keys) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < operands.count) store(keys + i, ~load(operands.labels.at(load(order + i))));
}

template <class C>
struct Candidate {
  C iou;
  int32_t index;

  __device__ bool is_behind(const Candidate& other) const {
    return other.iou > iou || (other.iou == iou && other.index < index);
  }
};

template <int Lanes, class C>
__device__ Candidate<C> best_of_lanes(Candidate<C> best) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) {
    const Candidate<C> other{__shfl_xor_sync(0xffffffffu, best.iou, distance),
                             __shfl_xor_sync(0xffffffffu, best.index, distance)};
    if (best.is_behind(other)) best = other;
  }
  return best;
}

// Boxes in the order in which they come: `by_label` indexes `by_score`, which indexes the operands.
struct Order {
  const int64_t *by_score, *by_label, *keys;

  __device__ int64_t operator()(int64_t i) const { return load(by_score + load(by_label + i)); }
};

// The clusters of a label have the places of its boxes; behind the last of them `fused_scores` is minus infinity.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    fuse_kernel(Operands<T> operands, const Compute<T>* weighted, Order order, Confidence<Compute<T>> confidence,
                Compute<T> iou_threshold, Cluster<Compute<T>>* clusters, Compute<T>* fused_scores) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  __shared__ C ious[kWarps];
  __shared__ int32_t indices[kWarps];
  const int64_t first = blockIdx.x;
  const int64_t key = load(order.keys + first);
  if (first > 0 && load(order.keys + first - 1) == key) return;
  const C none = -std::numeric_limits<C>::infinity();
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  int32_t found = 0;
  int64_t i = first;
  for (; i < operands.count && load(order.keys + i) == key; ++i) {
    const int64_t index = order(i);
    const C score = load(weighted + index);
    // No number, where a model has no weight: of the rest nothing will be read.
    if (!(score > none)) break;
    C area;
    const Box<C> box = load_proper_box(operands.boxes, index, area);
    Candidate<C> best{iou_threshold, INT32_MAX};
    for (int32_t c = threadIdx.x; c < found; c += kThreads) {
      const Cluster<C>& cluster = clusters[first + c];
      const C shared = intersection_of(box, cluster.fused);
      if (!(shared > 0)) continue;
      const C iou = shared / union_of(area, cluster.area, shared);
      if (iou > best.iou) best = {iou, c};
    }
    best = best_of_lanes<kWarpSize>(best);
    if (lane == 0) ious[warp] = best.iou, indices[warp] = best.index;
    __syncthreads();
    best = {ious[0], indices[0]};
    for (int w = 1; w < kWarps; ++w) {
      const Candidate<C> other{ious[w], indices[w]};
      if (best.is_behind(other)) best = other;
    }
    const int32_t chosen = best.index == INT32_MAX ? found : best.index;
    if (threadIdx.x == 0) {
      Cluster<C> cluster = chosen == found ? Cluster<C>{} : clusters[first + chosen];
      const int32_t model = static_cast<int32_t>(load(operands.models.at(index)));
      cluster.add({box, score, model}, confidence.weights[model]);
      clusters[first + chosen] = cluster;
    }
    found += chosen == found;
    // The next box is compared with what was changed, and writes where others still read.
    __syncthreads();
  }
  for (int32_t c = threadIdx.x; c < found; c += kThreads)
    store(fused_scores + first + c, confidence(clusters[first + c]));
  for (i = first + found + threadIdx.x; i < operands.count && load(order.keys + i) == key; i += kThreads) {
    store(fused_scores + i, none);
  }
}

// How many places hold a cluster; -1 if there is a box whose model has no weight.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    count_kernel(const C* fused_scores, const C* weighted, const int64_t* by_score, int64_t count, int64_t* total) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  __shared__ int64_t of_warps[kWarps];
  int64_t own = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    own += load(fused_scores + i) != -std::numeric_limits<C>::infinity();
  }
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) own += __shfl_xor_sync(0xffffffffu, own, distance);
  if (threadIdx.x % kWarpSize == 0) of_warps[threadIdx.x / kWarpSize] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  own = 0;
  for (const int64_t part : of_warps) own += part;
  const C best = load(weighted + load(by_score));
  store(total, best == best ? own : int64_t{-1});
}

template <class T>
struct Results {
  T *boxes, *scores;
  int64_t* labels;
};

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    write_kernel(const Cluster<Compute<T>>* clusters, const Compute<T>* fused_scores, const int64_t* keys,
                 const int64_t* order, int64_t count, Results<T> results) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t from = load(order + i);
  const Box<Compute<T>> box = clusters[from].fused;
  store(results.boxes + 4 * i, narrow<T>(box.x1));
  store(results.boxes + 4 * i + 1, narrow<T>(box.y1));
  store(results.boxes + 4 * i + 2, narrow<T>(box.x2));
  store(results.boxes + 4 * i + 3, narrow<T>(box.y2));
  store(results.scores + i, narrow<T>(load(fused_scores + from)));
  store(results.labels + i, ~load(keys + from));
}

std::tuple<Tensor, Tensor, Tensor> weighted_boxes_fusion_cuda(const Tensor& boxes,   // [K, 4]
                                                              const Tensor& scores,  // [K]
                                                              const Tensor& labels,  // [K]
                                                              const Tensor& models,  // [K]
                                                              const std::vector<double>& weights, double iou_threshold,
                                                              double skip_box_threshold, int64_t conf_type,
                                                              bool allows_overflow) {
  check_arguments(boxes, scores, labels, models, weights, conf_type);
  const int64_t count = boxes.size(0), of_models = static_cast<int64_t>(weights.size());
  Tensor fused_boxes = boxes, fused_scores = boxes, fused_labels = labels;
  const auto allocate = [&](int64_t clusters) {
    const int64_t sizes[] = {clusters, 4};
    fused_boxes = empty_contiguous(sizes, boxes);
    fused_scores = empty_contiguous(Sizes(&clusters, 1), boxes);
    fused_labels = empty_indices(clusters, boxes);
  };
  if (count == 0) {
    allocate(0);
    return {fused_boxes, fused_scores, fused_labels};
  }
  const DeviceOf device(boxes);
  check_not_captured(kOp, device);

  dispatch_floating(kOp, boxes.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Operands<T> operands{view<T, 2>(boxes), view<T, 1>(scores), view<int64_t, 1>(labels),
                               view<int64_t, 1>(models), count};
    const auto confidence = confidence_of<C>(weights, conf_type, allows_overflow);
    const auto blocks = blocks_for(count, kThreads);
    const Tensor weighted = empty_vector<C>(count, boxes), of_clusters = empty_vector<C>(count, boxes);
    const Tensor keys = empty_indices(count, boxes), total = empty_indices(1, boxes);
    const Tensor memory = empty_indices(count * int64_t{sizeof(Cluster<C>)} / int64_t{sizeof(int64_t)}, boxes);
    static_assert(sizeof(Cluster<C>) % sizeof(int64_t) == 0);
    auto* const clusters = reinterpret_cast<Cluster<C>*>(memory.mutable_data_ptr<int64_t>());
    launch("weighted_boxes_fusion: weigh", weigh_kernel<T>, device, blocks, operands, confidence,
           static_cast<C>(skip_box_threshold), of_models, weighted.template mutable_data_ptr<C>());
    const Tensor by_score = decreasing_order(weighted);
    launch("weighted_boxes_fusion: label", label_kernel<T>, device, blocks, operands,
           by_score.const_data_ptr<int64_t>(), keys.mutable_data_ptr<int64_t>());
    const Decreasing by_label = sort_decreasing(keys, 0);
    const Order order{by_score.const_data_ptr<int64_t>(), by_label.order.const_data_ptr<int64_t>(),
                      by_label.values.const_data_ptr<int64_t>()};
    C* const score = of_clusters.template mutable_data_ptr<C>();
    launch("weighted_boxes_fusion: fuse", fuse_kernel<T>, device, {count, kThreads}, operands,
           weighted.template const_data_ptr<C>(), order, confidence, rounded_down<C>(iou_threshold), clusters, score);
    launch("weighted_boxes_fusion: count", count_kernel<C>, device, {1, kThreads}, score,
           weighted.template const_data_ptr<C>(), order.by_score, count, total.mutable_data_ptr<int64_t>());
    const Tensor by_fused = decreasing_order(of_clusters);
    const int64_t found = item(total);
    check_models(found >= 0, weights);
    allocate(found);
    launch("weighted_boxes_fusion: write", write_kernel<T>, device, blocks_for(found, kThreads), clusters, score,
           order.keys, by_fused.const_data_ptr<int64_t>(), found,
           Results<T>{fused_boxes.template mutable_data_ptr<T>(), fused_scores.template mutable_data_ptr<T>(),
                      fused_labels.mutable_data_ptr<int64_t>()});
  });
  return {fused_boxes, fused_scores, fused_labels};
}

}  // namespace
}  // namespace handgrad::weighted_boxes_fusion

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::weighted_boxes_fusion::weighted_boxes_fusion_cuda>(library, "weighted_boxes_fusion");
}
