// Where the samples of a stretch of queries lead, on CUDA devices: so that who gathers what touches a few pixels need
// not look at all of them.
#pragma once

#include "cuda/sampled_groups.cuh"

#include "cuda/in_order.cuh"

namespace handgrad::sampled_groups {

// Samples of a level and group, queries outermost, are cut into chunks of as many as a block has threads.
template <class Geometry>
HANDGRAD_MATH int64_t chunks_of(const Geometry& geometry) {
  return (geometry.queries * geometry.points + kThreads - 1) / kThreads;
}

// A sample of a level and group, and whether there is one.
struct ChunkItem {
  Item item;
  int32_t point;
  bool there;

  template <class Geometry>
  __device__ ChunkItem(const Geometry& geometry, int32_t n, int32_t group, int64_t i) : item(n, 0, group) {
    const int64_t query = i / geometry.points;
    point = static_cast<int32_t>(i - query * geometry.points);
    there = query < geometry.queries;
    if (there) item.query = static_cast<int32_t>(query);
  }
};

// The upper left corners of a chunk's samples, from the first row and column to the last; of none, nothing.
struct Reach {
  int32_t top, left, bottom, right;

  __device__ void add(int32_t row, int32_t column) {
    top = min(top, row), left = min(left, column), bottom = max(bottom, row), right = max(right, column);
  }
  // Whether a tile has one of their corners, which are two rows and two columns each.
  __device__ bool touches(int32_t row, int32_t column, int rows, int columns) const {
    return top < row + rows && bottom >= row - 1 && left < column + columns && right >= column - 1;
  }
};

// A warp for each chunk, (image, group, level, chunk).
template <class T, class Geometry>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    reach_kernel(Geometry geometry, Operands<T> operands, int64_t chunks, int64_t count, Reach* reaches) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (index >= count) return;
  const int64_t of_level = index / chunks, of_group = of_level / geometry.level_count;
  const int32_t l = static_cast<int32_t>(of_level - of_group * geometry.level_count);
  const int32_t n = static_cast<int32_t>(of_group / geometry.groups);
  const int32_t group = static_cast<int32_t>(of_group - n * geometry.groups);
  Reach reach{INT32_MAX, INT32_MAX, INT32_MIN, INT32_MIN};
  for (int k = lane; k < kThreads; k += kWarpSize) {
    const ChunkItem chunk(geometry, n, group, (index - of_level * chunks) * kThreads + k);
    if (!chunk.there) break;
    const auto sample = chunk.item.sample(geometry, operands, l, chunk.point);
    if (sample.corners) reach.add(static_cast<int32_t>(sample.row), static_cast<int32_t>(sample.column));
  }
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    reach.top = min(reach.top, __shfl_xor_sync(0xffffffffu, reach.top, distance));
    reach.left = min(reach.left, __shfl_xor_sync(0xffffffffu, reach.left, distance));
    reach.bottom = max(reach.bottom, __shfl_xor_sync(0xffffffffu, reach.bottom, distance));
    reach.right = max(reach.right, __shfl_xor_sync(0xffffffffu, reach.right, distance));
  }
  if (lane != 0) return;
  store(&reaches[index].top, reach.top), store(&reaches[index].left, reach.left);
  store(&reaches[index].bottom, reach.bottom), store(&reaches[index].right, reach.right);
}

// The chunks that may touch a tile, as many as a block has threads at most.
struct NearChunks {
  InOrder<kThreads> in_order;
  int64_t chunks[kThreads];

  // Those of the next chunks; without reaches, all. All threads must call it, and none reads the list of the last call
  // after that.
  __device__ int find(const Reach* reaches, int64_t first, int64_t count, int32_t row, int32_t column, int rows,
                      int columns) {
    const int64_t chunk = first + threadIdx.x;
    bool hit = chunk < count;
    if (hit && reaches) {
      const Reach reach{load(&reaches[chunk].top), load(&reaches[chunk].left), load(&reaches[chunk].bottom),
                        load(&reaches[chunk].right)};
      hit = reach.touches(row, column, rows, columns);
    }
    int rank = 0;
    const int total = in_order.count(hit, rank);
    if (hit) chunks[rank] = chunk;
    __syncthreads();
    return total;
  }
};

}  // namespace handgrad::sampled_groups
