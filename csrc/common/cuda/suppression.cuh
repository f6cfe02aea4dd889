// Greedy suppression on devices: from the highest score down, a box that is kept drops all later ones that a rule says.
//
// Boxes are put in the order of their scores. A bit for each pair says whether the earlier suppresses the later: a
// block of threads fills a tile of 64 x 64 of them, each thread a row of 64 bits. One more block then goes through the
// boxes in order, 64 at a time: one of its threads decides among the 64, and all together mark what those that were
// kept suppress later on. Nothing of this leaves the device; only how many are kept is read by the host, because the
// result has that size.
//
// The bits of all pairs would be count^2 / 8 bytes. So they are made for as many rows as fit a fixed amount of memory,
// worked off, and overwritten by those of the next rows; a row that is suppressed by then is left out.
//
// A rule is
//
//   struct Rule {
//     using Number = …;                  // what boxes are told in
//     static constexpr int kNumbers = …;  // so many for each
//     template <class T> __device__ void read(const View<const T, 2>& boxes, int64_t row, Number* numbers) const;
//     __device__ bool suppresses(const Number* earlier, const Number* later) const;
//   };
#pragma once

#include <algorithm>
#include <string>

#include "abi/view.h"
#include "cuda/access.cuh"
#include "cuda/item.cuh"
#include "cuda/launch.cuh"
#include "cuda/sort.cuh"

namespace handgrad::suppression {

using Word = unsigned long long;

// Boxes of a tile: the bits of a word.
inline constexpr int kTile = 64;
inline constexpr int kSuppressionThreads = 256;
// Rows of kept boxes that a thread fetches at a time: loads that are under way together.
inline constexpr int kRowsAtOnce = 8;
// Bytes of the bits of pairs that are in memory at one time: those of 8,192 boxes with each other at least. They stay
// in the cache of a device, and what is suppressed by the first rows need not be looked at in the next.
inline constexpr int64_t kLeastMaskBytes = int64_t{8} << 20, kMostMaskBytes = int64_t{32} << 20;

inline int64_t mask_bytes() { return std::clamp(l2_cache_bytes() / 2, kLeastMaskBytes, kMostMaskBytes); }

// The boxes by decreasing score, and the state of the pass over them.
template <class C>
struct Sorted {
  int64_t count, tiles;
  // The numbers of each box, one array behind the other.
  C* values;
  // The class of each box; null if there is one class only.
  int64_t* classes;
  // By tile: bit b says that box b of it is suppressed, is kept; and how many are kept before the tile.
  Word *suppressed, *kept;
  int64_t* kept_before;

  __device__ C value(int which, int64_t box) const { return load(values + which * count + box); }
};

template <class T>
struct Operands {
  View<const T, 2> boxes;          // [K, numbers]
  View<const int64_t, 1> classes;  // [K], or none
  const int64_t* order;            // [K]
};

template <class T, class Rule>
__global__ void __launch_bounds__(kSuppressionThreads, kMinBlocks)
    sort_boxes_kernel(Operands<T> operands, Sorted<typename Rule::Number> sorted, Rule rule) {
  HANDGRAD_LAUNCH_BOUNDS(kSuppressionThreads);
  using C = typename Rule::Number;
  const int64_t i = int64_t{blockIdx.x} * kSuppressionThreads + threadIdx.x;
  if (i < sorted.tiles) store(sorted.suppressed + i, Word{0});
  if (i >= sorted.count) return;
  const int64_t row = load(operands.order + i);
  C numbers[Rule::kNumbers];
  rule.read(operands.boxes, row, numbers);
#pragma unroll
  for (int which = 0; which < Rule::kNumbers; ++which) store(sorted.values + which * sorted.count + i, numbers[which]);
  if (sorted.classes) store(sorted.classes + i, load(operands.classes.at(row)));
}

// The bits of the tiles of rows [first_tile, ...), those on the diagonal and right of it: mask[row * tiles + column
// tile], rows counted from the first. Of a tile on the diagonal, only bits of later boxes are set.
template <class Rule>
__global__ void __launch_bounds__(kTile, kMinBlocks)
    mask_kernel(Sorted<typename Rule::Number> sorted, Rule rule, int64_t first_tile, Word* mask) {
  HANDGRAD_LAUNCH_BOUNDS(kTile);
  using C = typename Rule::Number;
  constexpr int kNumbers = Rule::kNumbers;
  const int64_t row_tile = first_tile + blockIdx.x / sorted.tiles, column_tile = blockIdx.x % sorted.tiles;
  if (column_tile < row_tile) return;
  __shared__ C columns[kTile][kNumbers];
  __shared__ int64_t classes[kTile];
  const int lane = threadIdx.x;
  const int64_t column = column_tile * kTile + lane, row = row_tile * kTile + lane;
  if (column < sorted.count) {
    for (int which = 0; which < kNumbers; ++which) columns[lane][which] = sorted.value(which, column);
    if (sorted.classes) classes[lane] = load(sorted.classes + column);
  }
  __syncthreads();
  if (row >= sorted.count) return;
  Word bits = 0;
  if (!(load(sorted.suppressed + row_tile) >> lane & 1)) {
    C own[kNumbers];
#pragma unroll
    for (int which = 0; which < kNumbers; ++which) own[which] = sorted.value(which, row);
    const int64_t own_class = sorted.classes ? load(sorted.classes + row) : 0;
    const int64_t left = sorted.count - column_tile * kTile;
    const int end = left < kTile ? static_cast<int>(left) : kTile;
    for (int other = column_tile == row_tile ? lane + 1 : 0; other < end; ++other) {
      if (sorted.classes && classes[other] != own_class) continue;
      if (rule.suppresses(own, columns[other])) bits |= Word{1} << other;
    }
  }
  store(mask + (row - first_tile * kTile) * sorted.tiles + column_tile, bits);
}

// What of a tile is kept, given what is suppressed from before. `links` has a bit for each box that suppresses another
// one of the tile: only these must be looked at in turn.
__device__ __forceinline__ Word kept_of_tile(Word suppressed, Word links, const Word* diagonal, int filled) {
  for (Word rest = links & ~suppressed; rest; rest &= ~suppressed) {
    suppressed |= diagonal[__ffsll(static_cast<long long>(rest)) - 1];
    rest &= rest - 1;
  }
  return ~suppressed & (filled < kTile ? (Word{1} << filled) - 1 : ~Word{0});
}

// What the kept rows of a tile suppress among the boxes of one word. Some loads are under way at a time.
__device__ __forceinline__ Word suppressed_by(Word kept, const Word* column, int64_t tiles) {
  Word all = 0;
  while (kept) {
    Word some[kRowsAtOnce];
#pragma unroll
    for (Word& row : some) {
      row = kept ? load(column + (__ffsll(static_cast<long long>(kept)) - 1) * tiles) : Word{0};
      kept &= kept - 1;
    }
#pragma unroll
    for (const Word row : some) all |= row;
  }
  return all;
}

// One block: goes through the boxes of tiles [first_tile, end_tile) in order.
template <class C>
__global__ void __launch_bounds__(kSuppressionThreads, kMinBlocks)
    pass_kernel(Sorted<C> sorted, int64_t first_tile, int64_t end_tile, const Word* mask, int64_t* total) {
  HANDGRAD_LAUNCH_BOUNDS(kSuppressionThreads);
  __shared__ Word diagonal[kTile];
  __shared__ uint32_t links[kTile / kWarpSize];
  __shared__ Word kept;
  const int lane = threadIdx.x;
  const auto row_of = [&](int64_t tile) { return mask + (tile - first_tile) * kTile * sorted.tiles; };
  // A row's word on the diagonal depends on no decision: that of the next tile is fetched while this one's are made.
  const auto own_diagonal = [&](int64_t tile) {
    const bool there = lane < kTile && tile < end_tile && tile * kTile + lane < sorted.count;
    return there ? load(row_of(tile) + lane * sorted.tiles + tile) : Word{0};
  };
  int64_t before = first_tile == 0 ? 0 : load(total);
  Word own = own_diagonal(first_tile);
  // Of the next tile; thread 0 has just made it.
  Word suppressed = load(sorted.suppressed + first_tile);
  for (int64_t tile = first_tile; tile < end_tile; ++tile) {
    const int64_t left = sorted.count - tile * kTile;
    const int filled = left < kTile ? static_cast<int>(left) : kTile;
    if (lane < kTile) {
      diagonal[lane] = own;
      const uint32_t some = __ballot_sync(0xffffffffu, own != 0);
      if (lane % kWarpSize == 0) links[lane / kWarpSize] = some;
    }
    __syncthreads();
    if (lane == 0) {
      kept = kept_of_tile(suppressed, links[0] | Word{links[1]} << kWarpSize, diagonal, filled);
      store(sorted.kept + tile, kept);
      store(sorted.kept_before + tile, before);
    }
    own = own_diagonal(tile + 1);
    __syncthreads();
    const Word chosen = kept;
    before += __popcll(chosen);
    for (int64_t later = tile + 1 + lane; later < sorted.tiles; later += kSuppressionThreads) {
      const Word word = load(sorted.suppressed + later) | suppressed_by(chosen, row_of(tile) + later, sorted.tiles);
      if (later == tile + 1) suppressed = word;
      store(sorted.suppressed + later, word);
    }
  }
  if (lane == 0) store(total, before);
}

template <class C>
__global__ void __launch_bounds__(kSuppressionThreads, kMinBlocks)
    write_kernel(Sorted<C> sorted, const int64_t* order, int64_t* output) {
  HANDGRAD_LAUNCH_BOUNDS(kSuppressionThreads);
  const int64_t i = int64_t{blockIdx.x} * kSuppressionThreads + threadIdx.x;
  if (i >= sorted.count) return;
  const int64_t tile = i / kTile;
  const Word kept = load(sorted.kept + tile), bit = Word{1} << (i % kTile);
  if (!(kept & bit)) return;
  store(output + load(sorted.kept_before + tile) + __popcll(kept & (bit - 1)), load(order + i));
}

// The indices of the boxes that are kept, by decreasing score; T is what boxes are stored in.
template <class T, class Rule>
Tensor kept_boxes(const char* op, const Tensor& boxes,  // [K, numbers]
                  const Tensor& scores,                 // [K]
                  const std::optional<Tensor>& idxs,    // [K]
                  const Rule& rule) {
  using C = typename Rule::Number;
  const int64_t count = boxes.size(0);
  const DeviceOf device(boxes);
  const Tensor order = decreasing_order(scores);
  const int64_t tiles = (count + kTile - 1) / kTile;
  const int64_t tiles_at_once = std::clamp<int64_t>(mask_bytes() / (kTile * tiles * int64_t{sizeof(Word)}), 1, tiles);
  const Tensor values = empty_vector<C>(Rule::kNumbers * count, boxes),
               classes = empty_indices(idxs ? count : 0, boxes);
  const Tensor words = empty_indices(3 * tiles, boxes), total = empty_indices(1, boxes);
  const Tensor mask = empty_indices(tiles_at_once * kTile * tiles, boxes);
  Word* const bits = reinterpret_cast<Word*>(mask.mutable_data_ptr<int64_t>());
  int64_t* const word = words.mutable_data_ptr<int64_t>();
  const Sorted<C> sorted{count,
                         tiles,
                         values.template mutable_data_ptr<C>(),
                         idxs ? classes.mutable_data_ptr<int64_t>() : nullptr,
                         reinterpret_cast<Word*>(word),
                         reinterpret_cast<Word*>(word + tiles),
                         word + 2 * tiles};
  const Operands<T> operands{view<T, 2>(boxes), view<int64_t, 1>(idxs), order.const_data_ptr<int64_t>()};
  const auto named = [&](const char* step) { return std::string(op) + ": " + step; };
  launch(named("sort_boxes").c_str(), sort_boxes_kernel<T, Rule>, device, blocks_for(count, kSuppressionThreads),
         operands, sorted, rule);
  for (int64_t tile = 0; tile < tiles; tile += tiles_at_once) {
    const int64_t end = std::min(tiles, tile + tiles_at_once);
    launch(named("mask").c_str(), mask_kernel<Rule>, device, {(end - tile) * tiles, kTile}, sorted, rule, tile, bits);
    launch(named("pass").c_str(), pass_kernel<C>, device, {1, kSuppressionThreads}, sorted, tile, end, bits,
           total.mutable_data_ptr<int64_t>());
  }
  const Tensor output = empty_indices(item(total), boxes);
  launch(named("write").c_str(), write_kernel<C>, device, blocks_for(count, kSuppressionThreads), sorted,
         order.const_data_ptr<int64_t>(), output.mutable_data_ptr<int64_t>());
  return output;
}

}  // namespace handgrad::suppression
