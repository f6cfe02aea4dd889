// Soft non-maximum suppression on CUDA devices: one block of threads makes all choices, since each depends on the one
// before. A step lowers the scores of all boxes by the box chosen last, and finds the highest: each thread among its
// own boxes, then the threads of a warp, then every warp among all of them. Of equal scores the first box is chosen, so
// that the result does not depend on the order in which threads come.
//
// A launch makes some choices and leaves the rest to the next: one that takes seconds would be ended on a device that
// also shows a picture. The host waits for one number, how many were chosen, because the results have that size.
#include "abi/registration.h"
#include "cuda/boxes.cuh"
#include "cuda/item.cuh"
#include "cuda/launch.cuh"
#include "soft_nms_host.h"

namespace handgrad::soft_nms {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpSize;
// Each is a sweep over all boxes: a hundredth of a second in all, for a hundred thousand.
constexpr int64_t kChoicesOfLaunch = 1024;

template <class T>
struct Operands {
  View<const T, 2> boxes;   // [K, 4]
  View<const T, 1> scores;  // [K]
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
  int32_t index;

  __device__ bool is_behind(const Candidate& other) const {
    return other.score > score || (other.score == score && other.index < index);
  }
};

// The best of so many neighbouring lanes, in each of them.
template <int Lanes, class C>
__device__ Candidate<C> best_of_lanes(Candidate<C> best) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) {
    const Candidate<C> other{__shfl_xor_sync(0xffffffffu, best.score, distance),
                             __shfl_xor_sync(0xffffffffu, best.index, distance)};
    if (best.is_behind(other)) best = other;
  }
  return best;
}

// The best of each warp, twice: while some threads still read one, others write the next.
template <class C>
struct BestOfWarps {
  C scores[2][kWarps];
  int32_t indices[2][kWarps];

  // The best of all threads of the block, in every one of them.
  __device__ Candidate<C> best_of_block(Candidate<C> best, int which) {
    static_assert(kWarps == kWarpSize);
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    best = best_of_lanes<kWarpSize>(best);
    if (lane == 0) scores[which][warp] = best.score, indices[which][warp] = best.index;
    __syncthreads();
    return best_of_lanes<kWarps>(Candidate<C>{scores[which][lane], indices[which][lane]});
  }
};

// The boxes and the scores of one thread, to the state.
template <class T>
__device__ void load_state(const Operands<T>& operands, const State<Compute<T>>& state, Compute<T> min_score,
                           Compute<T> out) {
  using C = Compute<T>;
  for (int64_t i = threadIdx.x; i < state.count; i += kThreads) {
    C area;
    const Box<C> box = load_proper_box(operands.boxes, i, area);
    state.set(0, i, box.x1);
    state.set(1, i, box.y1);
    state.set(2, i, box.x2);
    state.set(3, i, box.y2);
    state.set(4, i, area);
    const C score = widen(load(operands.scores.at(i)));
    // Written so that NaN is out.
    state.set(5, i, score >= min_score ? score : out);
  }
}

// Lowers the scores of a thread's own boxes, which no other thread touches, by a box; the highest of them now.
template <class C, class Rule>
__device__ Candidate<C> sweep(const State<C>& state, const Rule& decay, const Box<C>& chosen_box, C chosen_area,
                              C min_score, const Candidate<C>& none) {
  Candidate<C> best = none;
  for (int64_t i = threadIdx.x; i < state.count; i += kThreads) {
    C score = state.value(5, i);
    if (score == none.score) continue;
    const C shared = intersection_of(chosen_box, state.box(i));
    if (shared > 0) {
      score *= decay.kept_part(shared, union_of(chosen_area, state.value(4, i), shared));
      score = score >= min_score ? score : none.score;
      state.set(5, i, score);
    }
    if (score > best.score) best = {score, static_cast<int32_t>(i)};
  }
  return best;
}

// The choices from `first` on, as many as a launch makes. `total`, how many there are so far, is read if there are any.
template <class T, class Rule>
__global__ void __launch_bounds__(kThreads, 1)
    choose_kernel(Operands<T> operands, State<Compute<T>> state, Rule decay, Compute<T> min_score, int64_t first,
                  int64_t* indices, Compute<T>* final_scores, int64_t* total) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  __shared__ BestOfWarps<C> best_of_warps;
  // What is infinite from below can be chosen no more.
  const Candidate<C> none{-std::numeric_limits<C>::infinity(), static_cast<int32_t>(state.count)};
  Box<C> chosen_box{C(0), C(0), C(0), C(0)};
  C chosen_area = 0;
  if (first == 0) {
    load_state(operands, state, min_score, none.score);
  } else {
    // Fewer than the launches before could have made: nothing is left.
    if (load(total) < first) return;
    const int64_t last = load(indices + first - 1);
    chosen_box = state.box(last), chosen_area = state.value(4, last);
  }
  int64_t chosen = first;
  for (; chosen < first + kChoicesOfLaunch; ++chosen) {
    const Candidate<C> own = sweep(state, decay, chosen_box, chosen_area, min_score, none);
    const Candidate<C> best = best_of_warps.best_of_block(own, static_cast<int>(chosen % 2));
    if (best.score == none.score) break;
    chosen_box = state.box(best.index), chosen_area = state.value(4, best.index);
    if (best.index % kThreads == static_cast<int32_t>(threadIdx.x)) {
      state.set(5, best.index, none.score);
      store(indices + chosen, int64_t{best.index});
      store(final_scores + chosen, best.score);
    }
  }
  if (threadIdx.x == 0) store(total, chosen);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    copy_kernel(const int64_t* indices, const Compute<T>* scores, int64_t count, int64_t* indices_out, T* scores_out) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  store(indices_out + i, load(indices + i));
  store(scores_out + i, narrow<T>(load(scores + i)));
}

std::tuple<Tensor, Tensor> soft_nms_cuda(const Tensor& boxes,   // [K, 4]
                                         const Tensor& scores,  // [K]
                                         double iou_threshold, double sigma, double min_score, bool gaussian) {
  check_arguments(boxes, scores);
  const int64_t count = boxes.size(0);
  if (count == 0) return {empty_indices(0, boxes), empty_scores(0, boxes)};
  const DeviceOf device(boxes);
  check_not_captured(kOp, device);
  Tensor indices_out = boxes, scores_out = boxes;

  with_decay(boxes, iou_threshold, sigma, gaussian, [&](auto tag, auto decay) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Tensor values = empty_vector<C>(7 * count, boxes), indices = empty_indices(count + 1, boxes);
    C* const value = values.template mutable_data_ptr<C>();
    C* const final_scores = value + 6 * count;
    int64_t* const index = indices.mutable_data_ptr<int64_t>();
    for (int64_t first = 0; first < count; first += kChoicesOfLaunch) {
      launch("soft_nms: choose", choose_kernel<T, decltype(decay)>, device, {1, kThreads},
             Operands<T>{view<T, 2>(boxes), view<T, 1>(scores)}, State<C>{value, count}, decay,
             static_cast<C>(min_score), first, index, final_scores, index + count);
    }
    const int64_t chosen = item(indices, count);
    indices_out = empty_indices(chosen, boxes);
    scores_out = empty_scores(chosen, boxes);
    launch("soft_nms: copy", copy_kernel<T>, device, blocks_for(chosen, kThreads), index, final_scores, chosen,
           indices_out.mutable_data_ptr<int64_t>(), scores_out.mutable_data_ptr<T>());
  });
  return {indices_out, scores_out};
}

}  // namespace
}  // namespace handgrad::soft_nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::soft_nms::soft_nms_cuda>(library, "soft_nms");
}
