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

// Four sums over the threads of a warp at the price of little more than one: sum q in the eight threads from 8 q on.
template <class C>
__device__ __forceinline__ C warp_sum_of_four(const C (&values)[4]) {
  const bool later = threadIdx.x & 16, odd = threadIdx.x & 8;
  const C first = (later ? values[2] : values[0]) + __shfl_xor_sync(0xffffffffu, later ? values[0] : values[2], 16);
  const C second = (later ? values[3] : values[1]) + __shfl_xor_sync(0xffffffffu, later ? values[1] : values[3], 16);
  C sum = (odd ? second : first) + __shfl_xor_sync(0xffffffffu, odd ? first : second, 8);
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  return sum;
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

// The second stage, one block: partial sums to the result, one element of `dtype`.
template <int Threads>
__global__ void __launch_bounds__(Threads, kMinBlocks)
    sum_partial_kernel(const double* partial, int64_t count, double divisor, ScalarType dtype, void* total) {
  HANDGRAD_LAUNCH_BOUNDS(Threads);
  double value = 0;
#pragma unroll 1
  for (int64_t i = threadIdx.x; i < count; i += Threads) value += load(partial + i);
  value = block_sum<Threads>(value) / divisor;
  if (threadIdx.x != 0) return;
  if (dtype == ScalarType::Double) {
    store(static_cast<double*>(total), value);
  } else {
    dispatch_storage<float>(dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      store(static_cast<T*>(total), narrow<T>(static_cast<float>(value)));
    });
  }
}

}  // namespace handgrad
