// Soft non-maximum suppression of more boxes than a block holds: round after round, all blocks lower all scores by what
// was chosen in the round before and select some of the highest, and one block chooses among these.
//
// Scores never rise. So a box of the selection whose score is above all that were left out, as these were when it was
// made, is the best of all, whatever was chosen meanwhile; when there is none, the next round comes. How many a round
// chooses depends on the boxes, and the host does not wait for it. It launches a round for every kChoicesOfRound boxes,
// and a round that has fewer choices than are due by then makes the others one by one, with a sweep over all boxes for
// each. A round after the last choice does nothing.
#pragma once

#include "cuda/in_order.cuh"
#include "soft_nms_kernels.cuh"

namespace handgrad::soft_nms {
namespace {

constexpr int kSweepThreads = 1024;
// Blocks that select, at most, boxes that each has at least, and boxes that they select together: few for each thread
// of the block that chooses.
constexpr int kSelectBlocks = 128, kLeastShare = 512, kSelected = 2048;
constexpr int kChoicesOfRound = 128;

template <class C>
struct SelectionMemory {
  Corners<C>* boxes;
  C* scores;
  int64_t* indices;
  C* bounds;
  int of_block;
};

// Scores that can be chosen as integers of the same order, above 0; the zeros are equal.
template <class C>
struct Key {
  using Bits = std::conditional_t<sizeof(C) == 4, uint32_t, uint64_t>;
  static constexpr Bits kAboveAll = sizeof(C) == 4 ? Bits{0x7f800002} : static_cast<Bits>(0x7ff0000000000002);

  static __device__ Bits of(C score) { return score > out<C>() ? detail::bits_as<Bits>(score + C(0)) + 1 : 0; }
  static __device__ C score(Bits key) { return key > 0 ? detail::bits_as<C>(key - 1) : out<C>(); }
};

// The boxes of a block, and their scores.
template <class C>
struct Share {
  C* scores;
  int64_t first, end;

  __device__ Share(const State<C>& state) : scores(state.scores) {
    const int64_t size = (state.count + gridDim.x - 1) / gridDim.x;
    first = blockIdx.x * size;
    end = first + size < state.count ? first + size : state.count;
  }
  // How many have at least this key. All threads must call it.
  __device__ int count_from(typename Key<C>::Bits key) const {
    int count = 0;
    for (int64_t i = first + threadIdx.x; i - threadIdx.x < end; i += kThreads) {
      count += __syncthreads_count(i < end && Key<C>::of(load(scores + i)) >= key);
    }
    return count;
  }
  // A key that at most so many have, and mostly not many fewer.
  __device__ typename Key<C>::Bits key_of_highest(int most) const {
    typename Key<C>::Bits low = 1, high = Key<C>::kAboveAll;
    if (count_from(low) <= most) return low;
    for (++low; low < high;) {
      const typename Key<C>::Bits middle = low + (high - low) / 2;
      const int count = count_from(middle);
      if (count > most) {
        low = middle + 1;
      } else {
        high = middle;
        if (4 * count >= 3 * most) break;
      }
    }
    return high;
  }
};

// Lowers the scores of a share by all choices that have not lowered them yet.
template <class C, class Rule>
__device__ __forceinline__ void lower_share(const State<C>& state, const Share<C>& share, const Progress& before,
                                            const Rule& decay, C min_score) {
  __shared__ Corners<C> choices[kThreads];
  for (int64_t start = before.applied; start < before.chosen; start += kThreads) {
    const int count = static_cast<int>(before.chosen - start < kThreads ? before.chosen - start : kThreads);
    const int lane = static_cast<int>(threadIdx.x);
    if (lane < count) choices[lane] = load(state.boxes + load(state.indices + start + lane));
    __syncthreads();
    for (int64_t i = share.first + lane; i < share.end; i += kThreads) {
      C score = load(state.scores + i);
      if (score == out<C>()) continue;
      const Box<C> box = box_of(load(state.boxes + i));
      for (int which = 0; which < count; ++which) {
        const Choice<C> choice(choices[which]);
        const Meeting<C> meeting(choice.box, box);
        if (meeting.is_there()) lower(decay, choice, box, meeting, min_score, score);
      }
      store(state.scores + i, score);
    }
    __syncthreads();
  }
}

// The highest of each block's boxes, in the order of all boxes.
template <class C, class Rule>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    select_kernel(State<C> state, SelectionMemory<C> set, Rule decay, C min_score) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const Progress before = load(state.progress);
  if (before.finished) return;
  __shared__ InOrder<kThreads> in_order;
  const Share<C> share(state);
  lower_share(state, share, before, decay, min_score);
  const auto least = share.key_of_highest(set.of_block);
  int filled = 0;
  for (int64_t i = share.first + threadIdx.x; i - threadIdx.x < share.end; i += kThreads) {
    const C score = i < share.end ? load(state.scores + i) : out<C>();
    int rank;
    const bool hit = Key<C>::of(score) >= least;
    const int hits = in_order.count(hit, rank);
    // There are no more than slots; a count that were wrong must not write into another block's.
    if (hit && filled + rank < set.of_block) {
      const int slot = static_cast<int>(blockIdx.x) * set.of_block + filled + rank;
      store(set.boxes + slot, load(state.boxes + i));
      store(set.scores + slot, score);
      store(set.indices + slot, i);
    }
    filled += hits;
    __syncthreads();
  }
  for (int slot = filled + static_cast<int>(threadIdx.x); slot < set.of_block; slot += kThreads) {
    store(set.scores + blockIdx.x * set.of_block + slot, out<C>());
  }
  if (threadIdx.x == 0) store(set.bounds + blockIdx.x, Key<C>::score(least - 1));
}

// One block: the choices that are due and were not made, each from all boxes.
template <class C, class Rule>
__global__ void __launch_bounds__(kSweepThreads, 1) sweep_kernel(State<C> state, Rule decay, C min_score, int64_t due) {
  HANDGRAD_LAUNCH_BOUNDS(kSweepThreads);
  const Progress before = load(state.progress);
  if (before.finished || before.chosen >= due) return;
  __shared__ BestOfWarps<C, kSweepThreads> best_of_warps;
  for (int64_t i = threadIdx.x; i < state.count; i += kSweepThreads) {
    C score = load(state.scores + i);
    if (score == out<C>()) continue;
    const Box<C> box = box_of(load(state.boxes + i));
    for (int64_t which = before.applied; which < before.chosen; ++which) {
      const Choice<C> choice = state.choice(which);
      const Meeting<C> meeting(choice.box, box);
      if (meeting.is_there()) lower(decay, choice, box, meeting, min_score, score);
    }
    store(state.scores + i, score);
  }
  Choice<C> choice;
  int64_t chosen = before.chosen;
  bool finished = false;
  for (; chosen < due; ++chosen) {
    Candidate<C> own = Candidate<C>::none();
    for (int64_t i = threadIdx.x; i < state.count; i += kSweepThreads) {
      C score = load(state.scores + i);
      const Box<C> box = box_of(load(state.boxes + i));
      const Meeting<C> meeting(choice.box, box);
      if (meeting.is_there()) {
        lower(decay, choice, box, meeting, min_score, score);
        store(state.scores + i, score);
      }
      if (score > own.score) own = {score, static_cast<int32_t>(i)};
    }
    const Candidate<C> best = best_of_warps.best_of_block(own, state.boxes, static_cast<int>(chosen % 2), choice);
    finished = !(best.score > out<C>());
    if (finished) break;
    if (best.slot % kSweepThreads == static_cast<int>(threadIdx.x)) state.record(chosen, best.slot, best.score);
  }
  // The last choice has lowered nothing yet.
  if (threadIdx.x == 0) store(state.progress, Progress{chosen, chosen - 1, finished});
}

}  // namespace
}  // namespace handgrad::soft_nms
