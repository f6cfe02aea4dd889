// The gradient of the value on CUDA devices, or what the double backward makes of it: gathered, not scattered.
//
// A block has a tile of pixels of one level of one image, and some channels of one group. It goes through the chunks of
// samples of that level and group that may touch the tile, and lists the samples that do, in order. Each warp
// has a row of the tile to itself, its lanes the channels: it goes through the list and adds what touches its row. So
// every sum has one order, nothing is added atomically, and half types are rounded once.
//
// In order of appearance: Tile, how levels are cut; Touching, the list; TileSums; the kernel.
#pragma once

#include "cuda/sampled_groups_reach.cuh"

namespace handgrad::sampled_groups {

// A row for each warp.
inline constexpr int kTileRows = kWarps, kTileColumns = 16;
// Gradients of the output that a warp fetches at a time.
inline constexpr int kFetched = 4;

// A tile of a level. Tiles of all levels are counted through.
struct Tile {
  int32_t level, row, column;

  HANDGRAD_MATH static int64_t count(const Level& level) {
    return int64_t{(level.height + kTileRows - 1) / kTileRows} * ((level.width + kTileColumns - 1) / kTileColumns);
  }

  template <class Geometry>
  __device__ Tile(const Geometry& geometry, int64_t index) {
    level = 0;
    while (index >= count(geometry.levels[level])) index -= count(geometry.levels[level++]);
    const int64_t across = (geometry.levels[level].width + kTileColumns - 1) / kTileColumns, down = index / across;
    row = static_cast<int32_t>(down) * kTileRows;
    column = static_cast<int32_t>(index - down * across) * kTileColumns;
  }
};

// Samples that touch a tile, as many as a block has threads at most.
template <class C>
struct Touching {
  InOrder<kThreads> in_order;
  // The corner at the upper left, relative to the tile, and the query.
  int32_t rows[kThreads], columns[kThreads], queries[kThreads];
  // What each corner's gradient is a multiple of grad_output by.
  alignas(16) C weights[kThreads][4];

  // Those of the samples of a chunk. All threads must call it, and none reads the
  // list of the last call after that.
  template <class T, bool Twice, class Geometry>
  __device__ int find(const Geometry& geometry, const Operands<T>& operands, const Tile& tile, int32_t n, int32_t group,
                      int64_t first) {
    const ChunkItem chunk(geometry, n, group, first + threadIdx.x);
    const GroupSample<C> sample = chunk.item.sample(geometry, operands, tile.level, chunk.point);
    const int64_t row = sample.row - tile.row, column = sample.column - tile.column;
    // Without a corner in the level it touches nothing, and neither does one whose location is NaN.
    const bool hit =
        chunk.there && sample.corners != 0 && row >= -1 && row < kTileRows && column >= -1 && column < kTileColumns;
    int rank = 0;
    const int total = in_order.count(hit, rank);
    if (hit) {
      GroupMotion<C> v{0, 0, 0};
      if constexpr (Twice) v = chunk.item.motion(operands, tile.level, chunk.point);
      rows[rank] = static_cast<int32_t>(row), columns[rank] = static_cast<int32_t>(column);
      queries[rank] = chunk.item.query;
#pragma unroll
      for (int q = 0; q < 4; ++q) weights[rank][q] = Twice ? sample.weight_change(q, v) : sample.weight(q);
    }
    __syncthreads();
    return total;
  }
};

// What has been added to a tile's pixels, in a block's channels.
template <class C>
struct TileSums {
  C sums[kTileRows][kTileColumns][kWarpSize];

  // Each warp clears its row, and has it to itself.
  __device__ void clear(int warp, int lane) {
#pragma unroll
    for (int column = 0; column < kTileColumns; ++column) sums[warp][column][lane] = 0;
  }

  // Of the samples listed, those that touch a warp's row; grads is where the gradient of query 0 is in a lane's
  // channel.
  template <class T>
  __device__ void add(const Touching<C>& touching, int total, int warp, int lane, const T* grads, int64_t stride) {
    for (int some = 0; some < total; some += kWarpSize) {
      const int mine = some + lane;
      const bool reaches = mine < total && (touching.rows[mine] == warp || touching.rows[mine] + 1 == warp);
      uint32_t waiting = __ballot_sync(0xffffffffu, reaches);
      while (waiting) {
        int listed[kFetched];
        C fetched[kFetched];
#pragma unroll
        for (int k = 0; k < kFetched; ++k) {
          listed[k] = waiting ? some + __ffs(static_cast<int>(waiting)) - 1 : -1;
          waiting &= waiting - 1;
          fetched[k] = listed[k] >= 0 ? widen(load_constant(grads + touching.queries[listed[k]] * stride)) : C(0);
        }
#pragma unroll
        for (int k = 0; k < kFetched; ++k) {
          if (listed[k] < 0) break;
          const int corner = 2 * (warp - touching.rows[listed[k]]);
          const int column = touching.columns[listed[k]];
          const C(&weights)[4] = touching.weights[listed[k]];
          if (column >= 0) sums[warp][column][lane] += weights[corner] * fetched[k];
          if (column + 1 < kTileColumns) sums[warp][column + 1][lane] += weights[corner + 1] * fetched[k];
        }
      }
    }
  }
};

// Blocks are (image, group, channels, tile), tiles innermost.
template <class T, bool Twice, class Geometry>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_value_kernel(Geometry geometry, Operands<T> operands,
                      View<const T, 3> grad_output,            // [B, Q, groups * channels]
                      const Reach* reaches,                    // [B, groups, levels, chunks], or null
                      int64_t tiles, View<T, 4> grad_value) {  // [B, S, groups, channels]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  __shared__ NearChunks near;
  __shared__ Touching<C> touching;
  __shared__ TileSums<C> tile_sums;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t block = blockIdx.x, outer = block / tiles, pieces = (geometry.channels + kWarpSize - 1) / kWarpSize;
  const Tile tile(geometry, block - outer * tiles);
  const int64_t channel = outer % pieces * kWarpSize + lane;
  const int32_t group = static_cast<int32_t>(outer / pieces % geometry.groups);
  const int32_t n = static_cast<int32_t>(outer / pieces / geometry.groups);
  const bool has_channel = channel < geometry.channels;
  const T* const grads = grad_output.at(n, 0, group * geometry.channels + (has_channel ? channel : 0));
  tile_sums.clear(warp, lane);

  const int64_t chunks = chunks_of(geometry);
  if (reaches) reaches += ((n * geometry.groups + group) * geometry.level_count + tile.level) * chunks;
  for (int64_t first = 0; first < chunks; first += kThreads) {
    const int count = near.find(reaches, first, chunks, tile.row, tile.column, kTileRows, kTileColumns);
    for (int k = 0; k < count; ++k) {
      const int64_t begin = near.chunks[k] * kThreads;
      const int total = touching.template find<T, Twice>(geometry, operands, tile, n, group, begin);
      tile_sums.add(touching, total, warp, lane, grads, grad_output.strides[1]);
    }
  }

  const Level level = geometry.levels[tile.level];
  const int64_t row = tile.row + warp;
  if (row >= level.height || !has_channel) return;
  for (int column = 0; column < kTileColumns && tile.column + column < level.width; ++column) {
    const int64_t position = level.start + row * level.width + tile.column + column;
    store(grad_value.at(n, position, group, channel), narrow<T>(tile_sums.sums[warp][column][lane]));
  }
}

}  // namespace handgrad::sampled_groups
