// Greedy suppression on devices: from the highest score down, a box that is kept drops all later ones that a rule says.
//
// Boxes are put in the order of their scores, and worked off in chunks. For the pairs of a chunk a bit says whether the
// earlier suppresses the later: a block of threads fills a tile of 64 x 64 of them, each thread a row of 64 bits. One
// more block then goes through the boxes of the chunk in order, 64 at a time: one of its threads decides among the 64,
// and all together mark what those that were kept suppress later on. What is kept of the chunk is held against the
// boxes of all later chunks by many blocks at once; no bits of these pairs are needed, and what is suppressed already
// is left out. Nothing of this leaves the device; only how many are kept is read by the host, because the result has
// that size.
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
// Of the boxes that are gone through together: a thread of the pass for each word of a row, and some rows of a tile.
inline constexpr int kChunkTiles = 64, kRowGroups = kSuppressionThreads / kChunkTiles;
inline constexpr int kRowsOfThread = kTile / kRowGroups;
// Tiles of which one block holds the kept boxes against later ones.
inline constexpr int kTilesOfBlock = kSuppressionThreads / kTile;

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

// Scores as torch's sort is to see them. On devices it goes by the bits of more than a few numbers, and a NaN with its
// sign set, which is what processors make of 0 / 0, comes last then: https://github.com/pytorch/pytorch/issues/190781.
template <class T>
__global__ void __launch_bounds__(kSuppressionThreads, kMinBlocks)
    keys_kernel(View<const T, 1> scores, int64_t count, T* keys) {
  HANDGRAD_LAUNCH_BOUNDS(kSuppressionThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kSuppressionThreads + threadIdx.x;
  if (i >= count) return;
  const C score = widen(load(scores.at(i)));
  store(keys + i, narrow<T>(score != score ? std::numeric_limits<C>::quiet_NaN() : score));
}

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

// The bits of the tiles of a chunk, those on the diagonal and right of it: mask[row * kChunkTiles + column tile], both
// counted from the first of the chunk. Of a tile on the diagonal, only bits of later boxes are set.
template <class Rule>
__global__ void __launch_bounds__(kTile, kMinBlocks)
    mask_kernel(Sorted<typename Rule::Number> sorted, Rule rule, int64_t first_tile, int tiles, Word* mask) {
  HANDGRAD_LAUNCH_BOUNDS(kTile);
  using C = typename Rule::Number;
  constexpr int kNumbers = Rule::kNumbers;
  const int64_t row_tile = first_tile + blockIdx.x / tiles, column_tile = first_tile + blockIdx.x % tiles;
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
  store(mask + (row - first_tile * kTile) * kChunkTiles + column_tile - first_tile, bits);
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

// One block: goes through the boxes of a chunk in order. A thread knows what is suppressed of one tile, by a quarter of
// the rows before it. Its words of a tile's rows are under way while another tile is decided: which of these rows are
// kept is not known by then, and those that are not are left out afterwards.
template <class C>
__global__ void __launch_bounds__(kSuppressionThreads, kMinBlocks)
    pass_kernel(Sorted<C> sorted, int64_t first_tile, int tiles, const Word* mask, int64_t* total) {
  HANDGRAD_LAUNCH_BOUNDS(kSuppressionThreads);
  __shared__ Word diagonal[kTile], from_groups[kRowGroups];
  __shared__ uint32_t links[kTile / kWarpSize];
  __shared__ Word kept;
  const int lane = static_cast<int>(threadIdx.x), column = lane % kChunkTiles, group = lane / kChunkTiles;
  Word suppressed = group == 0 && column < tiles ? load(sorted.suppressed + first_tile + column) : Word{0};
  const auto filled = [&](int tile) {
    const int64_t left = sorted.count - (first_tile + tile) * kTile;
    return left < kTile ? static_cast<int>(left) : kTile;
  };
  const auto own_diagonal = [&](int tile) {
    const bool there = lane < kTile && tile < tiles && lane < filled(tile);
    return there ? load(mask + (tile * kTile + lane) * kChunkTiles + tile) : Word{0};
  };
  Word rows[kRowsOfThread] = {};
  const auto fetch_rows = [&](int tile) {
    if (tile >= column || column >= tiles) return;
    const Word* const from = mask + (tile * kTile + group * kRowsOfThread) * kChunkTiles + column;
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) rows[r] = load(from + r * kChunkTiles);
  };
  int64_t before = first_tile == 0 ? 0 : load(total);
  Word own = own_diagonal(0);
  fetch_rows(0);
  for (int tile = 0; tile < tiles; ++tile) {
    if (lane < kTile) {
      diagonal[lane] = own;
      const uint32_t some = __ballot_sync(0xffffffffu, own != 0);
      if (lane % kWarpSize == 0) links[lane / kWarpSize] = some;
    }
    if (column == tile) from_groups[group] = suppressed;
    __syncthreads();
    if (lane == 0) {
      Word all = 0;
#pragma unroll
      for (const Word some : from_groups) all |= some;
      kept = kept_of_tile(all, links[0] | Word{links[1]} << kWarpSize, diagonal, filled(tile));
      store(sorted.kept + first_tile + tile, kept);
      store(sorted.kept_before + first_tile + tile, before);
    }
    own = own_diagonal(tile + 1);
    __syncthreads();
    before += __popcll(kept);
    if (tile < column) {
      const uint32_t kept_rows = static_cast<uint32_t>(kept >> (group * kRowsOfThread));
      // All bits of a mask are the bit of a row: there is nothing to choose by.
#pragma unroll
      for (int r = 0; r < kRowsOfThread; ++r) {
        suppressed |= rows[r] & static_cast<Word>(int64_t{static_cast<int32_t>(kept_rows << (31 - r)) >> 31});
      }
    }
    fetch_rows(tile + 1);
  }
  if (lane == 0) store(total, before);
}

// What the kept boxes of some tiles of a chunk suppress among a block's boxes of later chunks. Another block may have
// suppressed a box meanwhile, seen or not: then it is one that need not be asked, or is suppressed twice.
template <class Rule>
__global__ void __launch_bounds__(kSuppressionThreads, kMinBlocks)
    suppress_kernel(Sorted<typename Rule::Number> sorted, Rule rule, int64_t first_tile) {
  HANDGRAD_LAUNCH_BOUNDS(kSuppressionThreads);
  using C = typename Rule::Number;
  constexpr int kNumbers = Rule::kNumbers, kBlocksOfChunk = kChunkTiles / kTilesOfBlock;
  __shared__ C rows[kSuppressionThreads][kNumbers];
  __shared__ int64_t classes[kSuppressionThreads];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t tile = first_tile + blockIdx.x % kBlocksOfChunk * kTilesOfBlock;
  const int64_t first_column = (first_tile + kChunkTiles) * kTile;
  const int64_t column = first_column + int64_t{blockIdx.x / kBlocksOfChunk} * kSuppressionThreads + lane;
  int filled = 0, rank = -1;
#pragma unroll
  for (int which = 0; which < kTilesOfBlock; ++which) {
    const Word kept = load(sorted.kept + tile + which), bit = Word{1} << (lane % kTile);
    if (which == lane / kTile && (kept & bit)) rank = filled + __popcll(kept & (bit - 1));
    filled += __popcll(kept);
  }
  if (rank >= 0) {
    const int64_t row = tile * kTile + lane;
    for (int number = 0; number < kNumbers; ++number) rows[rank][number] = sorted.value(number, row);
    if (sorted.classes) classes[rank] = load(sorted.classes + row);
  }
  __syncthreads();
  bool hit = false;
  if (column < sorted.count && !(load(sorted.suppressed + column / kTile) >> (column % kTile) & 1)) {
    C own[kNumbers];
#pragma unroll
    for (int number = 0; number < kNumbers; ++number) own[number] = sorted.value(number, column);
    const int64_t own_class = sorted.classes ? load(sorted.classes + column) : 0;
    for (int row = 0; row < filled && !hit; ++row) {
      if (sorted.classes && classes[row] != own_class) continue;
      hit = rule.suppresses(rows[row], own);
    }
  }
  const uint32_t hits = __ballot_sync(0xffffffffu, hit);
  if (lane % kWarpSize == 0 && hits) {
    atomicOr(reinterpret_cast<uint32_t*>(sorted.suppressed) + column / kWarpSize, hits);
  }
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
  const auto named = [&](const char* step) { return std::string(op) + ": " + step; };
  const Tensor keys = empty_contiguous(scores.sizes(), scores);
  launch(named("keys").c_str(), keys_kernel<T>, device, blocks_for(count, kSuppressionThreads), view<T, 1>(scores),
         count, keys.mutable_data_ptr<T>());
  const Tensor order = decreasing_order(keys);
  const int64_t tiles = (count + kTile - 1) / kTile;
  const int64_t most = std::min<int64_t>(tiles, kChunkTiles);
  const Tensor values = empty_vector<C>(Rule::kNumbers * count, boxes),
               classes = empty_indices(idxs ? count : 0, boxes);
  const Tensor words = empty_indices(3 * tiles, boxes), total = empty_indices(1, boxes);
  const Tensor mask = empty_indices(most * kTile * kChunkTiles, boxes);
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
  launch(named("sort_boxes").c_str(), sort_boxes_kernel<T, Rule>, device, blocks_for(count, kSuppressionThreads),
         operands, sorted, rule);
  for (int64_t tile = 0; tile < tiles; tile += kChunkTiles) {
    const int of_chunk = static_cast<int>(std::min<int64_t>(tiles - tile, kChunkTiles));
    launch(named("mask").c_str(), mask_kernel<Rule>, device, {of_chunk * of_chunk, kTile}, sorted, rule, tile, of_chunk,
           bits);
    launch(named("pass").c_str(), pass_kernel<C>, device, {1, kSuppressionThreads}, sorted, tile, of_chunk, bits,
           total.mutable_data_ptr<int64_t>());
    const int64_t later = std::max<int64_t>(0, count - (tile + kChunkTiles) * kTile);
    const Blocks blocks = blocks_for(later, kSuppressionThreads);
    launch(named("suppress").c_str(), suppress_kernel<Rule>, device,
           {blocks.count * (kChunkTiles / kTilesOfBlock), blocks.threads}, sorted, rule, tile);
  }
  const Tensor output = empty_indices(item(total), boxes);
  launch(named("write").c_str(), write_kernel<C>, device, blocks_for(count, kSuppressionThreads), sorted,
         order.const_data_ptr<int64_t>(), output.mutable_data_ptr<int64_t>());
  return output;
}

}  // namespace handgrad::suppression
