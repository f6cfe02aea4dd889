// The gradient of the input on CUDA devices, or what the double backward adds to it: gathered, not scattered.
//
// A block has a tile of pixels of an image and some channels. It looks at the points of the grid in runs, and at runs
// in rows of runs; each has a box around the pixels that its points read, so that only those are looked at whose boxes
// touch the tile. Points that do touch it are listed in order. Each warp has a row of the tile to itself, its lanes the
// channels: it goes through the list and adds what touches its row. So every sum has one order, nothing is added
// atomically, and half types are rounded once.
//
// In order of appearance: boxes; Tile; Touching, the list; the kernel.
#pragma once

#include "cuda/in_order.cuh"
#include "grid_sample_kernels.cuh"

namespace handgrad::grid_sample {

inline constexpr int kWarps = kThreads / kWarpSize;
// A row for each warp.
inline constexpr int kTileRows = kWarps, kTileColumns = 16;
// Points of a run, and runs of a row of them: one for each thread of a block.
inline constexpr int kRun = kThreads;
// Gradients of the output that a warp fetches at a time.
inline constexpr int kFetched = 4;

// ---- boxes ----------------------------------------------------------------------------------------------------------

// Pixels from `low` to `high` of each axis, depth first; empty if they are not in this order.
struct Box {
  int32_t low[3], high[3];

  __device__ void clear() {
#pragma unroll
    for (int d = 0; d < 3; ++d) low[d] = INT32_MAX, high[d] = -1;
  }
  __device__ void join(const Box& other) {
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      low[d] = other.low[d] < low[d] ? other.low[d] : low[d];
      high[d] = other.high[d] > high[d] ? other.high[d] : high[d];
    }
  }
  __device__ bool touches(const Box& other) const {
    bool all = true;
#pragma unroll
    for (int d = 0; d < 3; ++d) all = all && low[d] <= other.high[d] && high[d] >= other.low[d];
    return all;
  }
};

template <class C, class T>
__device__ Box box_of(const Geometry& geometry, const Operands<T>& operands, const Point<C>& point) {
  Box box;
  box.clear();
  bool reads = true;
#pragma unroll
  for (int d = 0; d < 3; ++d) {
#pragma unroll 1
    for (int k = 0; k < geometry.taps(d); ++k) {
      const C pixel = point.tap(geometry, operands, d, k).pixel;
      if (pixel < 0) continue;
      const int32_t whole = static_cast<int32_t>(pixel);
      box.low[d] = whole < box.low[d] ? whole : box.low[d];
      box.high[d] = whole > box.high[d] ? whole : box.high[d];
    }
    reads = reads && box.high[d] >= 0;
  }
  if (!reads) box.clear();
  return box;
}

// Boxes of all runs of all images, and after them those of rows of runs.
struct Boxes {
  int64_t runs, rows;  // of an image
  int32_t* data;

  HANDGRAD_MATH static int64_t count(int64_t of) { return (of + kRun - 1) / kRun; }
  HANDGRAD_MATH int64_t of_run(int64_t n, int64_t run) const { return n * runs + run; }
  HANDGRAD_MATH int64_t of_row(int64_t images, int64_t n, int64_t row) const { return images * runs + n * rows + row; }
  __device__ Box read(int64_t index) const {
    Box box;
#pragma unroll
    for (int d = 0; d < 3; ++d) box.low[d] = load(data + 6 * index + d), box.high[d] = load(data + 6 * index + 3 + d);
    return box;
  }
  __device__ void write(int64_t index, const Box& box) const {
#pragma unroll
    for (int d = 0; d < 3; ++d) store(data + 6 * index + d, box.low[d]), store(data + 6 * index + 3 + d, box.high[d]);
  }
};

__device__ __forceinline__ Box box_of_warp(Box box) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    Box other;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      other.low[d] = __shfl_xor_sync(0xffffffffu, box.low[d], distance);
      other.high[d] = __shfl_xor_sync(0xffffffffu, box.high[d], distance);
    }
    box.join(other);
  }
  return box;
}

// A warp has a run of points.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    run_boxes_kernel(Geometry geometry, Operands<T> operands, Boxes boxes) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (index >= geometry.batch * boxes.runs) return;
  const int64_t n = index / boxes.runs, first = (index - n * boxes.runs) * kRun;
  Box box;
  box.clear();
#pragma unroll 1
  for (int64_t i = threadIdx.x % kWarpSize; i < kRun && first + i < geometry.points; i += kWarpSize) {
    box.join(box_of<C>(geometry, operands, Point<C>::template at<false>(geometry, operands, n, first + i)));
  }
  box = box_of_warp(box);
  if (threadIdx.x % kWarpSize == 0) boxes.write(boxes.of_run(n, first / kRun), box);
}

// A warp has a row of runs.
__global__ void __launch_bounds__(kThreads, kMinBlocks) row_boxes_kernel(int64_t images, Boxes boxes) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (index >= images * boxes.rows) return;
  const int64_t n = index / boxes.rows, row = index - n * boxes.rows, first = row * kRun;
  Box box;
  box.clear();
#pragma unroll 1
  for (int64_t i = threadIdx.x % kWarpSize; i < kRun && first + i < boxes.runs; i += kWarpSize) {
    box.join(boxes.read(boxes.of_run(n, first + i)));
  }
  box = box_of_warp(box);
  if (threadIdx.x % kWarpSize == 0) boxes.write(boxes.of_row(images, n, row), box);
}

// ---- a tile ---------------------------------------------------------------------------------------------------------

// Of one plane of the image.
struct Tile {
  int32_t plane, row, column;

  __device__ Box box() const { return {{plane, row, column}, {plane, row + kTileRows - 1, column + kTileColumns - 1}}; }
};

struct Tiles {
  int64_t down, across, count;

  explicit Tiles(const Geometry& geometry)
      : down((geometry.size[1] + kTileRows - 1) / kTileRows),
        across((geometry.size[2] + kTileColumns - 1) / kTileColumns),
        count(geometry.size[0] * down * across) {}
  __device__ Tile at(int64_t index) const {
    const int64_t line = index / across, plane = line / down;
    return {static_cast<int32_t>(plane), static_cast<int32_t>(line - plane * down) * kTileRows,
            static_cast<int32_t>(index - line * across) * kTileColumns};
  }
};

// ---- the list -------------------------------------------------------------------------------------------------------

// Points that touch a tile: for each axis their taps relative to it, and their weights, those along the depth included
// in the rows'. How they change along the direction for Twice.
template <class C, bool Twice>
struct Touching {
  int32_t points[kThreads];
  int32_t rows[kThreads][kMostAxisTaps], columns[kThreads][kMostAxisTaps];
  alignas(16) C of_row[kThreads][kMostAxisTaps], of_column[kThreads][kMostAxisTaps];
  alignas(16) C row_change[Twice ? kThreads : 1][kMostAxisTaps], column_change[Twice ? kThreads : 1][kMostAxisTaps];

  template <class T>
  __device__ void put(const Geometry& geometry, const Operands<T>& operands, const Point<C>& point, const Tile& tile,
                      int32_t p, int rank) {
    points[rank] = p;
    C of_plane = 0, plane_slope = 0;
#pragma unroll 1
    for (int k = 0; k < geometry.taps(0); ++k) {
      const AxisTap<C> tap = point.tap(geometry, operands, 0, k);
      if (static_cast<int32_t>(tap.pixel) == tile.plane) of_plane += tap.weight.value, plane_slope += tap.weight.slope;
    }
#pragma unroll 1
    for (int k = 0; k < geometry.taps(1); ++k) {
      const AxisTap<C> tap = point.tap(geometry, operands, 1, k);
      rows[rank][k] = tap.pixel < 0 ? -1 : static_cast<int32_t>(tap.pixel) - tile.row;
      of_row[rank][k] = of_plane * tap.weight.value;
      if constexpr (Twice) {
        row_change[rank][k] =
            point.v[2] * (plane_slope * tap.weight.value) + point.v[1] * (of_plane * tap.weight.slope);
      }
    }
#pragma unroll 1
    for (int k = 0; k < geometry.taps(2); ++k) {
      const AxisTap<C> tap = point.tap(geometry, operands, 2, k);
      columns[rank][k] = tap.pixel < 0 ? -1 : static_cast<int32_t>(tap.pixel) - tile.column;
      of_column[rank][k] = tap.weight.value;
      if constexpr (Twice) column_change[rank][k] = point.v[0] * tap.weight.slope;
    }
  }

  __device__ bool reaches(const Geometry& geometry, int listed, int row) const {
    bool any = false;
    for (int k = 0; k < geometry.taps(1); ++k) any = any || rows[listed][k] == row;
    return any;
  }

  // What a gradient of the output gives to a row of the tile, whose sums are `stride` apart.
  __device__ void add(const Geometry& geometry, int listed, int row, C grad, C* sums, int stride) const {
    // More than one tap may be the same pixel, at a border.
    C along = 0, change = 0;
    for (int k = 0; k < geometry.taps(1); ++k) {
      if (rows[listed][k] != row) continue;
      along += of_row[listed][k];
      if constexpr (Twice) change += row_change[listed][k];
    }
    for (int k = 0; k < geometry.taps(2); ++k) {
      const int32_t column = columns[listed][k];
      if (column < 0 || column >= kTileColumns) continue;
      C weight = along * of_column[listed][k];
      if constexpr (Twice) weight = change * of_column[listed][k] + along * column_change[listed][k];
      sums[column * stride] += weight * grad;
    }
  }
};

// ---- the kernel -----------------------------------------------------------------------------------------------------

// Blocks are (channels, image, tile), tiles innermost.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_input_kernel(Geometry geometry, Operands<T> operands, Boxes boxes, Tiles tiles,
                      View<const T, 3> grad_output,  // [N, C, points]
                      View<T, 3> grad_input) {       // [N, C, pixels]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  // Padded, so that columns of one channel lie in different banks.
  constexpr int kStride = kWarpSize + 1;
  __shared__ InOrder<kThreads> in_order;
  __shared__ int32_t near_rows[kThreads], near_runs[kThreads];
  __shared__ Touching<C, Twice> touching;
  __shared__ C sums[kTileRows][kTileColumns * kStride];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int64_t block = blockIdx.x, outer = block / tiles.count;
  const Tile tile = tiles.at(block - outer * tiles.count);
  const Box box = tile.box();
  const int64_t n = outer % geometry.batch, first_channel = outer / geometry.batch * kWarpSize;
  const bool has_channel = first_channel + lane < geometry.channels;
  const T* const grads = grad_output.at(n, has_channel ? first_channel + lane : 0, 0);
#pragma unroll
  for (int column = 0; column < kTileColumns; ++column) sums[warp][column * kStride + lane] = 0;

  // Of `count` items from `first` on, at most one for each thread, those that hit, in order. All threads must call it,
  // and none reads the list of the last call after that.
  const auto list = [&](int64_t first, int64_t count, int32_t* found, const auto& hits) {
    const int64_t mine = first + thread;
    const bool hit = mine < count && hits(mine);
    int rank = 0;
    const int total = in_order.count(hit, rank);
    if (hit) found[rank] = static_cast<int32_t>(mine);
    __syncthreads();
    return total;
  };
  for (int64_t some_rows = 0; some_rows < boxes.rows; some_rows += kThreads) {
    const int rows = list(some_rows, boxes.rows, near_rows,
                          [&](int64_t row) { return boxes.read(boxes.of_row(geometry.batch, n, row)).touches(box); });
    for (int r = 0; r < rows; ++r) {
      const int64_t first_run = int64_t{near_rows[r]} * kRun;
      const int runs = list(first_run, first_run + kRun < boxes.runs ? first_run + kRun : boxes.runs, near_runs,
                            [&](int64_t run) { return boxes.read(boxes.of_run(n, run)).touches(box); });
      for (int s = 0; s < runs; ++s) {
        const int64_t p = int64_t{near_runs[s]} * kRun + thread;
        Point<C> point{};
        bool hit = false;
        if (p < geometry.points) {
          point = Point<C>::template at<Twice>(geometry, operands, n, p);
          hit = box_of<C>(geometry, operands, point).touches(box);
        }
        int rank = 0;
        const int total = in_order.count(hit, rank);
        if (hit) touching.put(geometry, operands, point, tile, static_cast<int32_t>(p), rank);
        __syncthreads();
        for (int some = 0; some < total; some += kWarpSize) {
          const bool reaches = some + lane < total && touching.reaches(geometry, some + lane, warp);
          uint32_t waiting = __ballot_sync(0xffffffffu, reaches);
          while (waiting) {
            int listed[kFetched];
            C fetched[kFetched];
#pragma unroll
            for (int k = 0; k < kFetched; ++k) {
              listed[k] = waiting ? some + __ffs(static_cast<int>(waiting)) - 1 : -1;
              waiting &= waiting - 1;
              fetched[k] = listed[k] >= 0
                               ? widen(load_constant(grads + touching.points[listed[k]] * grad_output.strides[2]))
                               : C(0);
            }
#pragma unroll
            for (int k = 0; k < kFetched; ++k) {
              if (listed[k] >= 0) touching.add(geometry, listed[k], warp, fetched[k], sums[warp] + lane, kStride);
            }
          }
        }
      }
    }
  }

  __syncwarp();
  const int64_t row = tile.row + warp;
  if (row >= geometry.size[1]) return;
  const int64_t first_pixel = (tile.plane * geometry.size[1] + row) * geometry.size[2] + tile.column;
  // Neighbouring lanes store what are neighbours in memory: channels, or columns.
  const bool by_channel = grad_input.strides[1] == 1;
#pragma unroll 1
  for (int32_t i = lane; i < kTileColumns * kWarpSize; i += kWarpSize) {
    const int column = by_channel ? i / kWarpSize : i % kTileColumns;
    const int channel = by_channel ? i % kWarpSize : i / kTileColumns;
    if (tile.column + column >= geometry.size[2] || first_channel + channel >= geometry.channels) continue;
    store(grad_input.at(n, first_channel + channel, first_pixel + column),
          narrow<T>(sums[warp][column * kStride + channel]));
  }
}

}  // namespace handgrad::grid_sample
