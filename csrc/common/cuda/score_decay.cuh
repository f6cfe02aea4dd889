// Scores that decay by overlaps with items of higher score (math/score_decay.h), on devices.
//
// Items are put in the order of their scores, and then class by class. A warp takes an item and goes through those of
// its class before it, twice: first for what covers it most, then, when that is known of all, for what lowers it most.
// Overlaps are found anew the second time: the matrix of all pairs is never in memory. The last items, which have most
// before them, are begun with. Which lane has which pair is no matter: the highest and the lowest number are asked for.
//
// Where no limit of scores is set all items are returned, nothing is read by the host, and a call can be captured.
//
// What overlaps are of is told by a type whose items stand in that order:
//
//   struct Overlaps {
//     // Calls visit(i, iou) for all i of [begin, row) that `row` overlaps, on one lane of the warp or on several;
//     `lane`
//     // is the thread's. All lanes call it.
//     template <class Visit> __device__ void for_each(int64_t row, int64_t begin, int lane, const Visit& visit) const;
//   };
#pragma once

#include <string>
#include <tuple>

#include "abi/view.h"
#include "cuda/access.cuh"
#include "cuda/item.cuh"
#include "cuda/launch.cuh"
#include "cuda/sort.cuh"
#include "math/score_decay.h"

namespace handgrad::score_decay {

inline constexpr int kThreads = 256;
inline constexpr int kRowsOfBlock = kThreads / kWarpSize;

// The items in the order in which they are compared.
struct Order {
  int64_t count;
  // Of the i-th score the item; of the i-th row, class by class, the score; the classes' keys, likewise. The latter two
  // are null where there is one class.
  const int64_t *by_score, *by_class, *keys;

  __device__ int64_t rank(int64_t row) const { return by_class ? load(by_class + row) : row; }
  __device__ int64_t item(int64_t row) const { return load(by_score + rank(row)); }
};

// Keys whose decreasing order is the increasing one of classes.
template <class Key>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    keys_kernel(View<const Key, 1> classes, const int64_t* by_score, int64_t count, Key* keys) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) store(keys + i, ~load(classes.at(load(by_score + i))));
}

// By row, the first of the rows that may lower it: of its class, and with a score that is a number. A row that does not
// count is itself the first.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    begin_kernel(View<const T, 1> scores, Order order, Limits<Compute<T>> limits, int64_t* begins) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= order.count) return;
  const auto score = [&](int64_t i) { return widen(load(scores.at(order.item(i)))); };
  int64_t low = 0, high = row;
  if (!limits.counts(score(row))) low = row;
  const int64_t key = order.keys ? load(order.keys + row) : 0;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    const C one = score(middle);
    const bool may = one == one && (!order.keys || load(order.keys + middle) == key);
    (may ? high : low) = may ? middle : middle + 1;
  }
  store(begins + row, low);
}

// What is chosen of the values of a warp, choice by choice of two.
template <class C, class Choose>
__device__ __forceinline__ C chosen_of_warp(C value, const Choose& choose) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value = choose(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}
template <class C>
__device__ __forceinline__ C largest_of_warp(C value) {
  return chosen_of_warp(value, [](C a, C b) { return larger(a, b); });
}
template <class C>
__device__ __forceinline__ C smallest_of_warp(C value) {
  return chosen_of_warp(value, [](C a, C b) { return smaller(a, b); });
}

// The row of a warp, the last one first; below 0 if there is none left for it.
__device__ __forceinline__ int64_t row_of_warp(int64_t count) {
  return count - 1 - (int64_t{blockIdx.x} * kRowsOfBlock + threadIdx.x / kWarpSize);
}

template <class C, class Rule, class Overlaps>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    cover_kernel(Overlaps overlaps, Rule decay, int64_t count, const int64_t* begins, C* reliefs) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int lane = threadIdx.x % kWarpSize;
  const int64_t row = row_of_warp(count);
  if (row < 0) return;
  C cover = 0;
  overlaps.for_each(row, load(begins + row), lane, [&](int64_t, C iou) { cover = larger(cover, iou); });
  cover = largest_of_warp(cover);
  if (lane == 0) store(reliefs + row, decay.relief(cover));
}

// What becomes of the scores, by rank; minus infinity, which sorts behind all, if they are not returned.
template <class T, class Rule, class Overlaps>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    decay_kernel(Overlaps overlaps, Rule decay, View<const T, 1> scores, Order order, Limits<Compute<T>> limits,
                 const int64_t* begins, const Compute<T>* reliefs, Compute<T>* decayed) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t row = row_of_warp(order.count);
  if (row < 0) return;
  C smallest = Rule::kUntouched;
  overlaps.for_each(row, load(begins + row), lane,
                    [&](int64_t i, C iou) { smallest = smaller(smallest, decay.step(iou, load(reliefs + i))); });
  smallest = smallest_of_warp(smallest);
  if (lane != 0) return;
  const C score = widen(load(scores.at(order.item(row))));
  const C lowered = score * decay.kept_part(smallest);
  const bool returned = limits.returns(score, lowered);
  store(decayed + order.rank(row), returned ? lowered : -std::numeric_limits<C>::infinity());
}

// How many of the scores, which come by decreasing value, are returned.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks) count_kernel(const C* values, int64_t count, int64_t* total) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const auto is_returned = [&](int64_t k) { return load(values + k) > -std::numeric_limits<C>::infinity(); };
  const bool returned = is_returned(i);
  if (i == 0 && !returned) store(total, int64_t{0});
  if (returned && (i + 1 == count || !is_returned(i + 1))) store(total, i + 1);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    write_kernel(const int64_t* by_score, const int64_t* by_decayed, const Compute<T>* decayed, int64_t count,
                 int64_t* indices_out, T* scores_out) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  store(indices_out + i, load(by_score + load(by_decayed + i)));
  store(scores_out + i, narrow<T>(load(decayed + i)));
}

inline Blocks warps_for(int64_t rows) { return {(rows + kRowsOfBlock - 1) / kRowsOfBlock, dim3(kThreads)}; }

// The items in the order in which they are compared, and what it is made of.
struct Ranking {
  Order order;
  Tensor by_score;
  std::optional<Decreasing> by_class;
};

// Of the `count` highest scores.
inline Ranking rank_items(const std::string& op, const DeviceOf& device, const Tensor& scores,  // [K]
                          const std::optional<Tensor>& classes,                                 // [K]
                          int64_t count) {
  Ranking ranking{{count, nullptr, nullptr, nullptr}, decreasing_order(scores), std::nullopt};
  Order& order = ranking.order;
  order.by_score = ranking.by_score.const_data_ptr<int64_t>();
  if (!classes) return ranking;
  const Tensor keys = empty_indices(count, scores);
  launch((op + ": keys").c_str(), keys_kernel<int64_t>, device, blocks_for(count, kThreads), view<int64_t, 1>(*classes),
         order.by_score, count, keys.mutable_data_ptr<int64_t>());
  ranking.by_class = sort_decreasing(keys, 0);
  order.by_class = ranking.by_class->order.const_data_ptr<int64_t>();
  order.keys = ranking.by_class->values.const_data_ptr<int64_t>();
  return ranking;
}

// The items whose scores are above the limits, by decreasing decayed score (of equal ones in the order that they had),
// and those scores. There must be items. make_overlaps(order) returns what keeps the Overlaps of the items in this
// order alive: its `kernel` is they.
template <class T, class Rule, class MakeOverlaps>
std::tuple<Tensor, Tensor> decayed_scores(const std::string& op, const DeviceOf& device,
                                          const Tensor& scores,                  // [K]
                                          const std::optional<Tensor>& classes,  // [K]
                                          const Limits<Compute<T>>& limits, const Counts& counts, const Rule& decay,
                                          const MakeOverlaps& make_overlaps) {
  using C = Compute<T>;
  if (limits.any) check_not_captured(op.c_str(), device);
  const auto named = [&](const char* step) { return op + ": " + step; };
  const int64_t count = std::min(scores.size(0), counts.most);
  const Ranking ranking = rank_items(op, device, scores, classes, count);
  const Order& order = ranking.order;
  const Tensor begins = empty_indices(count, scores);
  const Tensor reliefs = empty_vector<C>(count, scores), lowered = empty_vector<C>(count, scores);
  const int64_t* const begin = begins.const_data_ptr<int64_t>();
  C* const relief = reliefs.template mutable_data_ptr<C>();
  const View<const T, 1> score = view<T, 1>(scores);
  const auto overlaps = make_overlaps(order);
  using Overlaps = decltype(overlaps.kernel);
  launch(named("begin").c_str(), begin_kernel<T>, device, blocks_for(count, kThreads), score, order, limits,
         begins.mutable_data_ptr<int64_t>());
  launch(named("cover").c_str(), cover_kernel<C, Rule, Overlaps>, device, warps_for(count), overlaps.kernel, decay,
         count, begin, relief);
  launch(named("decay").c_str(), decay_kernel<T, Rule, Overlaps>, device, warps_for(count), overlaps.kernel, decay,
         score, order, limits, begin, relief, lowered.template mutable_data_ptr<C>());

  const Decreasing by_decayed = sort_decreasing(lowered, 0);
  const C* const decayed = by_decayed.values.template const_data_ptr<C>();
  int64_t chosen = count;
  if (limits.any) {
    const Tensor total = empty_indices(1, scores);
    launch(named("count").c_str(), count_kernel<C>, device, blocks_for(count, kThreads), decayed, count,
           total.mutable_data_ptr<int64_t>());
    chosen = item(total);
  }
  chosen = std::min(chosen, counts.returned);
  const Tensor indices_out = empty_indices(chosen, scores), scores_out = empty_contiguous(Sizes(&chosen, 1), scores);
  launch(named("write").c_str(), write_kernel<T>, device, blocks_for(chosen, kThreads), order.by_score,
         by_decayed.order.const_data_ptr<int64_t>(), decayed, chosen, indices_out.mutable_data_ptr<int64_t>(),
         scores_out.template mutable_data_ptr<T>());
  return {indices_out, scores_out};
}

}  // namespace handgrad::score_decay
