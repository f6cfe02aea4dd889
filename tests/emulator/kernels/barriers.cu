// Kernels that are right, and one barrier or __syncwarp of each that a build can take out: -DWITHOUT_BARRIER_n.
#include <cstdint>

#include "call.h"

#if defined(WITHOUT_BARRIER_1)
#define BARRIER_1()
#else
#define BARRIER_1() __syncthreads()
#endif
#if defined(WITHOUT_BARRIER_2)
#define BARRIER_2()
#else
#define BARRIER_2() __syncthreads()
#endif
#if defined(WITHOUT_BARRIER_3)
#define BARRIER_3()
#else
#define BARRIER_3() __syncthreads()
#endif
#if defined(WITHOUT_BARRIER_4)
#define BARRIER_4()
#else
#define BARRIER_4() __syncthreads()
#endif
#if defined(WITHOUT_BARRIER_5)
#define BARRIER_5()
#else
#define BARRIER_5() __syncthreads()
#endif
#if defined(WITHOUT_BARRIER_6)
#define BARRIER_6()
#else
#define BARRIER_6() __syncwarp()
#endif

namespace {

constexpr unsigned kThreads = 256;

// One partial sum per block; each block sums two stretches in turn, so that its shared memory is used twice.
template <class T>
__global__ void __launch_bounds__(kThreads) block_sum(const T* x, T* partial, int64_t count) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  __shared__ T warps[kThreads / 32];
  T total = 0;
  for (int half = 0; half < 2; ++half) {
    T value = 0;
    const int64_t step = int64_t{2} * gridDim.x * kThreads;
    for (int64_t i = (int64_t{2} * blockIdx.x + half) * kThreads + threadIdx.x; i < count; i += step) value += x[i];
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_down_sync(0xffffffffu, value, lanes);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    BARRIER_1();
    if (threadIdx.x == 0) {
      for (unsigned w = 0; w < kThreads / 32; ++w) total += warps[w];
    }
    BARRIER_2();
  }
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

__global__ void transpose(const float* from, float* to, int rows, int columns) {
  __shared__ float tile[32][33];
  const int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32;
  for (int y = threadIdx.y; y < 32; y += blockDim.y) {
    if (row + y < rows && column < columns) tile[y][threadIdx.x] = from[int64_t{row + y} * columns + column];
  }
  BARRIER_3();
  const int out_column = blockIdx.y * 32 + threadIdx.x, out_row = blockIdx.x * 32;
  for (int y = threadIdx.y; y < 32; y += blockDim.y) {
    if (out_row + y < columns && out_column < rows) to[int64_t{out_row + y} * rows + out_column] = tile[threadIdx.x][y];
  }
}

// An inclusive scan of one block, doubling the distance at each step.
__global__ void scan(const int* x, int* out) {
  HANDGRAD_DYNAMIC_SHARED(int, sums);
  sums[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  for (unsigned distance = 1; distance < blockDim.x; distance *= 2) {
    const int other = threadIdx.x >= distance ? sums[threadIdx.x - distance] : 0;
    BARRIER_4();
    sums[threadIdx.x] += other;
    BARRIER_5();
  }
  out[threadIdx.x] = sums[threadIdx.x];
}

// Neighbours within a warp speak through shared memory.
__global__ void rotate_warp(const int* x, int* out) {
  __shared__ int seats[128];
  seats[threadIdx.x] = x[threadIdx.x];
  BARRIER_6();
  out[threadIdx.x] = seats[(threadIdx.x & ~31u) + ((threadIdx.x + 1) & 31)];
}

}  // namespace

ENTRY(run_block_sum, (const float* x, float* partial, int64_t count, int blocks),
      launch("block_sum", blocks, kThreads, 0, {kThreads}, block_sum<float>, x, partial, count))
ENTRY(run_block_sum_double, (const double* x, double* partial, int64_t count, int blocks),
      launch("block_sum", blocks, kThreads, 0, {kThreads}, block_sum<double>, x, partial, count))
ENTRY(run_transpose, (const float* from, float* to, int rows, int columns),
      launch("transpose", dim3((columns + 31) / 32, (rows + 31) / 32), dim3(32, 8), 0, {}, transpose, from, to, rows,
             columns))
ENTRY(run_scan, (const int* x, int* out, int count),
      launch("scan", 1, count, static_cast<size_t>(count) * sizeof(int), {}, scan, x, out))
ENTRY(run_rotate_warp, (const int* x, int* out), launch("rotate_warp", 1, 128, 0, {}, rotate_warp, x, out))
