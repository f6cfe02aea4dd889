// Soft non-maximum suppression on devices: how a block chooses among boxes that its threads hold in registers.
//
// A step lowers the scores of all of these boxes by the box chosen last, and finds the highest: each thread among its
// own, then the threads of a warp, then every warp among all of them. Of equal scores the first box is chosen, so that
// the result does not depend on the order in which threads come. Between two choices stands one barrier.
#pragma once

#include "cuda/boxes.cuh"
#include "cuda/launch.cuh"
#include "soft_nms_host.h"

namespace handgrad::soft_nms {
namespace {

constexpr int kThreads = 256;

// The score of a box that can be chosen no more.
template <class C>
__device__ __forceinline__ C out() {
  return -std::numeric_limits<C>::infinity();
}

// The corners of a box, read and written by whole vectors.
template <class C>
struct alignas(16) Corners {
  C lane[Box<C>::kColumns];
};

template <class C>
__device__ __forceinline__ Box<C> box_of(const Corners<C>& corners) {
  return {corners.lane[0], corners.lane[1], corners.lane[2], corners.lane[3]};
}

// A box that was chosen; one of no size lowers nothing.
template <class C>
struct Choice {
  Box<C> box{C(0), C(0), C(0), C(0)};
  C area = 0;

  Choice() = default;
  __device__ explicit Choice(const Corners<C>& corners) : box(box_of(corners)), area(area_of(box)) {}
};

// How far the choices are: so many are made; so many of them have lowered the scores in memory; nothing is left.
struct Progress {
  int64_t chosen, applied, finished;
};

// The boxes, proper ones or of no size, and their scores by now; and what was chosen.
template <class C>
struct State {
  Corners<C>* boxes;
  C* scores;
  int64_t* indices;
  C* final_scores;
  Progress* progress;
  int64_t count;

  __device__ Choice<C> choice(int64_t which) const { return Choice<C>(load(boxes + load(indices + which))); }
  __device__ void record(int64_t which, int64_t index, C score) const {
    store(indices + which, index);
    store(final_scores + which, score);
    store(scores + index, out<C>());
  }
};

// Some boxes to choose among, and what is known of the others: none has a score above the highest of the bounds.
template <class C>
struct Selection {
  const Corners<C>* boxes;
  const C* scores;
  const int64_t* indices;  // null if these are all boxes there are
  int count;
  const C* bounds;
  int bound_count;
};

template <class C>
struct Candidate {
  C score;
  int32_t slot;

  // Without a branch: lanes compare again and again.
  __device__ bool is_behind(const Candidate& other) const {
    return static_cast<int>(other.score > score) |
           (static_cast<int>(other.score == score) & static_cast<int>(other.slot < slot));
  }
  static __device__ Candidate none() { return {out<C>(), INT32_MAX}; }
};

// The best of so many neighbouring lanes, in each of them.
template <int Lanes, class C>
__device__ __forceinline__ Candidate<C> best_of_lanes(Candidate<C> best) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) {
    const Candidate<C> other{__shfl_xor_sync(0xffffffffu, best.score, distance),
                             __shfl_xor_sync(0xffffffffu, best.slot, distance)};
    if (best.is_behind(other)) best = other;
  }
  return best;
}

// The best of each warp, twice: while some threads still read one, others write the next.
template <class C, int Threads>
struct BestOfWarps {
  static constexpr int kWarps = Threads / kWarpSize;
  C scores[2][kWarps];
  int32_t slots[2][kWarps];
  Corners<C> corners[2][kWarps];

  // The best of all threads of the block, in every one of them, and its corners, if there is any. Slot s belongs to
  // thread s modulo their number. Each thread reads its own best box, mostly the same as before and therefore in the
  // nearest cache, while the scores are compared: then nobody waits for the corners of the box that is chosen.
  __device__ __forceinline__ Candidate<C> best_of_block(Candidate<C> own, const Corners<C>* boxes, int which,
                                                        Choice<C>& choice) {
    const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const bool any = own.score > out<C>();
    Corners<C> own_corners;
    if (any) own_corners = load(boxes + own.slot);
    Candidate<C> best = best_of_lanes<kWarpSize>(own);
    if (lane == 0) scores[which][warp] = best.score, slots[which][warp] = best.slot;
    if (any && own.slot == best.slot) corners[which][warp] = own_corners;
    __syncthreads();
    best = best_of_lanes<kWarps>(Candidate<C>{scores[which][lane % kWarps], slots[which][lane % kWarps]});
    if (best.score > out<C>()) choice = Choice<C>(corners[which][best.slot % Threads / kWarpSize]);
    return best;
  }
};

// Lowers a score by a choice that the box meets.
template <class C, class Rule>
__device__ __forceinline__ void lower(const Rule& decay, const Choice<C>& choice, const Box<C>& box,
                                      const Meeting<C>& meeting, C min_score, C& score) {
  const C shared = meeting.area();
  if (!(shared > 0)) return;
  score *= decay.kept_part(shared, union_of(choice.area, area_of(box), shared));
  // Written so that NaN is out.
  score = score >= min_score ? score : out<C>();
}

// The boxes of one thread, and their scores.
template <class C, int PerThread>
struct OwnBoxes {
  static constexpr int kAtOnce = 4;
  static_assert(PerThread % kAtOnce == 0);
  Box<C> boxes[PerThread];
  C scores[PerThread];

  __device__ __forceinline__ explicit OwnBoxes(const Selection<C>& set) {
#pragma unroll
    for (int p = 0; p < PerThread; ++p) {
      const int slot = p * kThreads + static_cast<int>(threadIdx.x);
      scores[p] = slot < set.count ? load(set.scores + slot) : out<C>();
      boxes[p] = scores[p] > out<C>() ? box_of(load(set.boxes + slot)) : Choice<C>().box;
    }
  }

  // Lowers all scores by a choice; the highest of them now. Most boxes do not meet it, and for some at a time this is
  // found out by instructions that do not wait for each other.
  template <class Rule>
  __device__ __forceinline__ Candidate<C> lower_all(const Rule& decay, const Choice<C>& choice, C min_score,
                                                    int count) {
    Candidate<C> best = Candidate<C>::none();
#pragma unroll
    for (int first = 0; first < PerThread; first += kAtOnce) {
      if (first * kThreads >= count) break;
      lower_some(decay, choice, min_score, boxes + first, scores + first);
#pragma unroll
      for (int p = first; p < first + kAtOnce; ++p) {
        if (scores[p] > best.score) best = {scores[p], p * kThreads + static_cast<int>(threadIdx.x)};
      }
    }
    return best;
  }
  template <class Rule>
  static __device__ __forceinline__ void lower_some(const Rule& decay, const Choice<C>& choice, C min_score,
                                                    const Box<C>* boxes, C* scores) {
    const Meeting<C> meetings[kAtOnce] = {
        {choice.box, boxes[0]}, {choice.box, boxes[1]}, {choice.box, boxes[2]}, {choice.box, boxes[3]}};
#pragma unroll
    for (int p = 0; p < kAtOnce; ++p) {
      if (meetings[p].is_there()) lower(decay, choice, boxes[p], meetings[p], min_score, scores[p]);
    }
  }
  __device__ __forceinline__ void remove(int which) {
#pragma unroll
    for (int p = 0; p < PerThread; ++p)
      if (p == which) scores[p] = out<C>();
  }
  __device__ __forceinline__ void store_scores(C* to, int count) const {
#pragma unroll
    for (int p = 0; p < PerThread; ++p) {
      const int slot = p * kThreads + static_cast<int>(threadIdx.x);
      if (slot < count) store(to + slot, scores[p]);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    prepare_kernel(View<const T, 2> boxes, View<const T, 1> scores, Compute<T> min_score, State<Compute<T>> state) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i == 0) store(state.progress, Progress{0, 0, 0});
  if (i >= state.count) return;
  C area;
  const Box<C> box = load_proper_box(boxes, i, area);
  store(state.boxes + i, Corners<C>{{box.x1, box.y1, box.x2, box.y2}});
  const C score = widen(load(scores.at(i)));
  // Written so that NaN is out.
  store(state.scores + i, score >= min_score ? score : out<C>());
}

// One block: chooses among a selection, until so many are chosen or another box could be before all that are left.
template <class C, class Rule, int PerThread>
__global__ void __launch_bounds__(kThreads, 1)
    choose_kernel(State<C> state, Selection<C> set, Rule decay, C min_score, int64_t limit) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const Progress before = load(state.progress);
  if (before.finished) return;
  __shared__ BestOfWarps<C, kThreads> best_of_warps;
  OwnBoxes<C, PerThread> own(set);
  Choice<C> choice;
  C bound = out<C>();
  if (set.indices) {
    const int lane = static_cast<int>(threadIdx.x);
    Candidate<C> highest = Candidate<C>::none();
    if (lane < set.bound_count) highest = {load(set.bounds + lane), lane};
    // Its corners are of no interest: those of any box will do.
    bound = best_of_warps.best_of_block(highest, set.boxes, 0, choice).score;
    choice = Choice<C>();
  } else if (before.chosen > 0) {
    choice = state.choice(before.chosen - 1);
  }
  int64_t chosen = before.chosen;
  bool finished = false;
  for (int which = 1; chosen < limit; ++chosen, which ^= 1) {
    const Candidate<C> own_best = own.lower_all(decay, choice, min_score, set.count);
    const Candidate<C> best = best_of_warps.best_of_block(own_best, set.boxes, which, choice);
    if (!(best.score > bound)) {
      finished = !(bound > out<C>());
      break;
    }
    if (best.slot % kThreads == static_cast<int>(threadIdx.x)) {
      own.remove(best.slot / kThreads);
      state.record(chosen, set.indices ? load(set.indices + best.slot) : best.slot, best.score);
    }
  }
  if (!set.indices) own.store_scores(state.scores, set.count);
  if (threadIdx.x == 0) store(state.progress, Progress{chosen, before.chosen, finished});
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

}  // namespace
}  // namespace handgrad::soft_nms
