// Of the threads of a block, some: numbered in their order, so that what they list is listed in one order always.
#pragma once

#include <cstdint>

#include "cuda/device.cuh"

namespace handgrad {

template <int Threads>
struct InOrder {
  static constexpr int kWarps = Threads / kWarpSize;
  int counts[kWarps];

  // How many threads have `hit`, and in `rank` how many of them come before this one. All threads must call it, and
  // meet once more before the next call.
  __device__ int count(bool hit, int& rank) {
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const uint32_t hits = __ballot_sync(0xffffffffu, hit);
    if (lane == 0) counts[warp] = __popc(hits);
    __syncthreads();
    int before = 0, total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) before = total;
      total += counts[w];
    }
    rank = before + __popc(hits & ((1u << lane) - 1));
    return total;
  }
};

}  // namespace handgrad
