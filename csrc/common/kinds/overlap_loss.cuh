// Losses of the sums of a sample and class, on CUDA devices: kinds/overlap_loss.h says what they are. There are as many
// losses as classes and samples, a few hundred: one block takes them all, so that their sum has one order.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "kinds/overlap_loss.h"

namespace handgrad::overlap_loss {

template <class Body>
__global__ void __launch_bounds__(kSumThreads, kMinBlocks)
    overlap_loss_kernel(Body body, int64_t count, Numbers total, double divisor) {
  HANDGRAD_LAUNCH_BOUNDS(kSumThreads);
  double sum = 0;
#pragma unroll 1
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += body(i);
  if (!total.data) return;
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) total.set(0, sum / divisor);
}

struct OnCuda {
  template <class Body>
  static void for_each(const std::string& name, const Tensor& like, int64_t count, const Body& body,
                       const Numbers& total, double divisor) {
    if (count == 0 && !total.data) return;
    launch(name.c_str(), overlap_loss_kernel<Body>, DeviceOf(like), {1, dim3(kSumThreads, 1, 1)}, body, count, total,
           divisor);
  }
};

}  // namespace handgrad::overlap_loss
