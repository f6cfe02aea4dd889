// Which boxes reach a tile of an image, for kernels in which a block has a tile and goes through its boxes.
#pragma once

#include "cuda/in_order.cuh"

namespace handgrad {

// Of the next boxes, as many as a block has threads, those that reach a tile, in order. In shared memory.
template <int Threads>
struct BoxesOfTile {
  int32_t boxes[Threads];
  InOrder<Threads> in_order;

  // How many there are, of those from `some` on; reaches(k) tells of one. All threads must call it; none reads the
  // boxes of the last call after that.
  template <class Reaches>
  __device__ int find(int32_t count, int32_t some, const Reaches& reaches) {
    const int32_t mine = some + static_cast<int32_t>(threadIdx.x);
    const bool hit = mine < count && reaches(mine);
    int rank = 0;
    const int total = in_order.count(hit, rank);
    if (hit) boxes[rank] = mine;
    __syncthreads();
    return total;
  }
};

}  // namespace handgrad
