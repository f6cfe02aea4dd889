// Images of half the size on the device, as cpu/halving.h has them: a thread for each pixel of the result.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/stored.cuh"
#include "math/halving.h"

namespace handgrad {

inline constexpr int kHalvingThreads = 256;

template <class C>
__global__ void __launch_bounds__(kHalvingThreads, kMinBlocks)
    halving_kernel(Halving halving, StoredView<const C, 5> from, C* to) {
  HANDGRAD_LAUNCH_BOUNDS(kHalvingThreads);
  const int64_t i = int64_t{blockIdx.x} * kHalvingThreads + threadIdx.x, row = i / halving.extent[2];
  if (row >= halving.rows()) return;
  const HalvedRow at = halving.row(row);
  const int64_t column = 2 * (i - row * halving.extent[2]);
  const int rows = halving.rows_of_one();
  C total = 0, earlier = 0;
#pragma unroll 1
  for (int k = 0; k < rows; ++k) {
    const Stored<const C> first = from.at(at.n, at.c, at.slice + k / 2, at.line + k % 2, column);
    const C pair = read(first) + read(first + from.strides[4]);
    // Two rows and then two more, each pair by itself: the CPU's order.
    earlier = k % 2 == 0 ? pair : earlier + pair;
    if (k % 2 == 1) total += earlier;
  }
  store(to + i, C(0.5) / static_cast<C>(rows) * total);
}

struct HalvingOnCuda {
  template <class C>
  static void halve(const char* name, const Tensor& like, const Halving& halving, const StoredView<const C, 5>& from,
                    C* to) {
    launch(name, halving_kernel<C>, DeviceOf(like), blocks_for(halving.rows() * halving.extent[2], kHalvingThreads),
           halving, from, to);
  }
};

}  // namespace handgrad
