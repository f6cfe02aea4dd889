// Sums over the threads of a block, in an order that does not depend on which warp comes first.
#pragma once

#include "cuda/device.cuh"

#include "cuda/access.cuh"

namespace handgrad {

inline constexpr int kSumThreads = 256;

__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    value += __shfl_down_sync(0xffffffffu, value, distance);
  return value;
}

// The sum over all threads of the block, in thread 0. All threads must call it.
template <int Threads>
__device__ __forceinline__ double block_sum(double value) {
  constexpr int kWarps = Threads / kWarpSize;
  static_assert(Threads % kWarpSize == 0 && kWarps <= kWarpSize);
  __shared__ double of_warps[kWarpSize];
  value = warp_sum(value);
  if (threadIdx.x % kWarpSize == 0) of_warps[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  if (threadIdx.x < kWarpSize) value = warp_sum(threadIdx.x < kWarps ? of_warps[threadIdx.x] : 0.0);
  return value;
}

template <int Threads>
__device__ __forceinline__ void store_block_sum(double value, double* partial) {
  const double total = block_sum<Threads>(value);
  if (threadIdx.x == 0) store(partial + blockIdx.x, total);
}

// The second stage, one block: partial sums to the result.
template <class T>
__global__ void __launch_bounds__(kSumThreads, kMinBlocks)
    sum_partial_kernel(const double* partial, int64_t count, double factor, T* total) {
  HANDGRAD_LAUNCH_BOUNDS(kSumThreads);
  double value = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) value += load(partial + i);
  value = block_sum<kSumThreads>(value);
  if (threadIdx.x == 0) store(total, narrow<T>(static_cast<Compute<T>>(value * factor)));
}

}  // namespace handgrad
