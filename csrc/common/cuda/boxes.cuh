// Boxes on the device: as boxes.h has them, read from a table.
#pragma once

#include "cuda/access.cuh"
#include "math/boxes.h"

namespace handgrad {

// The box at `corner`, its numbers `stride` elements apart, and its area. What is not a proper box shares nothing with
// any other, and neither does one of no size, which stands for it.
template <class T>
__device__ __forceinline__ Box<Compute<T>> load_proper_box(const T* corner, int64_t stride, Compute<T>& area) {
  using C = Compute<T>;
  const Box<C> box{widen(load(corner)), widen(load(corner + stride)), widen(load(corner + 2 * stride)),
                   widen(load(corner + 3 * stride))};
  area = area_of(box);
  if (is_proper(box, area)) return box;
  area = 0;
  return {C(0), C(0), C(0), C(0)};
}

}  // namespace handgrad
