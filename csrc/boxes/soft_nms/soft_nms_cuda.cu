// Soft non-maximum suppression on CUDA devices: one block of threads makes all choices, since each depends on the one
// before. A step lowers the scores of all boxes by the box chosen last, and finds the highest: each thread among its
// own boxes, then the threads of a warp, then the warps. Of equal scores the first box is chosen, so that the result
// does not depend on the order in which threads come.
//
// The host waits for one number, how many were chosen, because the results have that size.
#include "cuda/boxes.cuh"
#include "cuda/launch.cuh"
#include "abi/registration.h"
#include "soft_nms_host.h"

namespace handgrad {
namespace {

using namespace soft_nms;

constexpr int kThreads = 512;

template <class T>
struct Given {
  const T *boxes, *scores;
  int64_t count, row_stride, column_stride, score_stride;
};

// By box: x1, y1, x2, y2, the area, the score; one array behind the other.
template <class C>
struct State {
  C* values;
  int64_t count;

  __device__ C value(int which, int64_t i) const { return load(values + which * count + i); }
  __device__ void set(int which, int64_t i, C value) const { store(values + which * count + i, value); }
  __device__ Box<C> box(int64_t i) const { return {value(0, i), value(1, i), value(2, i), value(3, i)}; }
};

template <class C>
struct Candidate {
  C score;
  int64_t place;

  __device__ bool is_behind(const Candidate& other) const {
    return other.score > score || (other.score == score && other.place < place);
  }
};

// The best of a warp, in its lane 0.
template <class C>
__device__ Candidate<C> best_of_warp(Candidate<C> best) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const Candidate<C> other{
        __shfl_down_sync(0xffffffffu, best.score, distance),
        static_cast<int64_t>(__shfl_down_sync(0xffffffffu, static_cast<long long>(best.place), distance))};
    if (best.is_behind(other)) best = other;
  }
  return best;
}

template <class T, class Rule>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    choose_kernel(Given<T> given, State<Compute<T>> state, Rule decay, Compute<T> min_score, int64_t* places,
                  Compute<T>* final_scores, int64_t* total) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  constexpr C out = -std::numeric_limits<C>::infinity();
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ C warp_scores[kWarps];
  __shared__ int64_t warp_places[kWarps];
  __shared__ C chosen_score;
  __shared__ int64_t chosen_place;
  const int lane = threadIdx.x;

  for (int64_t i = lane; i < state.count; i += kThreads) {
    C area;
    const Box<C> box = load_proper_box(given.boxes + i * given.row_stride, given.column_stride, area);
    state.set(0, i, box.x1);
    state.set(1, i, box.y1);
    state.set(2, i, box.x2);
    state.set(3, i, box.y2);
    state.set(4, i, area);
    const C score = widen(load(given.scores + i * given.score_stride));
    // Written so that NaN is out.
    state.set(5, i, score >= min_score ? score : out);
  }

  Box<C> by{C(0), C(0), C(0), C(0)};
  C by_area = 0;
  int64_t chosen = 0;
  for (;; ++chosen) {
    Candidate<C> best{out, state.count};
    // A thread's own boxes, whose scores no other thread touches.
    for (int64_t i = lane; i < state.count; i += kThreads) {
      C score = state.value(5, i);
      if (score == out) continue;
      const C shared = intersection_of(by, state.box(i));
      if (shared > 0) {
        score *= decay.kept_part(shared, union_of(by_area, state.value(4, i), shared));
        score = score >= min_score ? score : out;
        state.set(5, i, score);
      }
      if (score > best.score) best = {score, i};
    }
    best = best_of_warp(best);
    if (lane % kWarpSize == 0) {
      warp_scores[lane / kWarpSize] = best.score;
      warp_places[lane / kWarpSize] = best.place;
    }
    __syncthreads();
    if (lane < kWarpSize) {
      best = lane < kWarps ? Candidate<C>{warp_scores[lane], warp_places[lane]} : Candidate<C>{out, state.count};
      best = best_of_warp(best);
      if (lane == 0) {
        chosen_score = best.score;
        chosen_place = best.place;
      }
    }
    __syncthreads();
    const int64_t place = chosen_place;
    // Infinite from below: nothing is left.
    if (chosen_score == out) break;
    by = state.box(place);
    by_area = state.value(4, place);
    if (place % kThreads == lane) {
      state.set(5, place, out);
      store(places + chosen, place);
      store(final_scores + chosen, chosen_score);
    }
  }
  if (lane == 0) store(total, chosen);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    copy_kernel(const int64_t* places, const Compute<T>* scores, int64_t count, int64_t* places_out, T* scores_out) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  store(places_out + i, load(places + i));
  store(scores_out + i, narrow<T>(load(scores + i)));
}

std::tuple<Tensor, Tensor> soft_nms_cuda(const Tensor& boxes, const Tensor& scores, double iou_threshold, double sigma,
                                         double min_score, bool gaussian) {
  check_arguments(boxes, scores);
  const int64_t count = boxes.size(0);
  if (count == 0) return {empty_indices(0, boxes), empty_scores(0, boxes)};
  Tensor places_out = boxes, scores_out = boxes;

  with_decay(boxes, iou_threshold, sigma, gaussian, [&](auto tag, auto decay) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const DeviceOf device(boxes);
    const Tensor values = empty_vector<C>(7 * count, boxes), places = empty_indices(count + 1, boxes);
    C* const value = values.template mutable_data_ptr<C>();
    int64_t* const place = places.mutable_data_ptr<int64_t>();
    const Given<T> given{boxes.const_data_ptr<T>(), scores.const_data_ptr<T>(), count,
                         boxes.strides()[0],        boxes.strides()[1],         scores.strides()[0]};
    C* const final_scores = value + 6 * count;
    launch("soft_nms: choose", choose_kernel<T, decltype(decay)>, device, {1, kThreads}, given, State<C>{value, count},
           decay, static_cast<C>(min_score), place, final_scores, place + count);
    int64_t chosen = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_item_int64(torch::stable::select(places, 0, count).get(), &chosen));
    places_out = empty_indices(chosen, boxes);
    scores_out = empty_scores(chosen, boxes);
    launch("soft_nms: copy", copy_kernel<T>, device, {(chosen + kThreads - 1) / kThreads, kThreads}, place,
           final_scores, chosen, places_out.mutable_data_ptr<int64_t>(), scores_out.mutable_data_ptr<T>());
  });
  return {places_out, scores_out};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::soft_nms_cuda>(library, "soft_nms");
}
