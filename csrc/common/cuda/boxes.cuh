// Boxes on the device: as boxes.h has them, read from a table.
#pragma once

#include "cuda/access.cuh"
#include "math/boxes.h"

namespace handgrad {

// Row k of a table, [K, 4], and its area. What is not a proper box shares nothing with any other, and neither does one
// of no size, which stands for it.
template <class T>
__device__ __forceinline__ Box<Compute<T>> load_proper_box(const View<const T, 2>& boxes, int64_t k, Compute<T>& area) {
  using C = Compute<T>;
  const Box<C> box{widen(load(boxes.at(k, 0))), widen(load(boxes.at(k, 1))), widen(load(boxes.at(k, 2))),
                   widen(load(boxes.at(k, 3)))};
  area = area_of(box);
  if (is_proper(box, area)) return box;
  area = 0;
  return {C(0), C(0), C(0), C(0)};
}

// Where two boxes meet, if they do: extents of their intersection. Both boxes are proper or of no size, so that none
// has NaN for a corner, for which the device's own minimum is not smaller().
template <class C>
struct Meeting {
  C width, height;

  __device__ __forceinline__ Meeting(const Box<C>& a, const Box<C>& b)
      : width(fmin(a.x2, b.x2) - fmax(a.x1, b.x1)), height(fmin(a.y2, b.y2) - fmax(a.y1, b.y1)) {}
  __device__ __forceinline__ bool is_there() const { return width > 0 && height > 0; }
  // If it is there: as intersection_of has it.
  __device__ __forceinline__ C area() const { return rounded_product(width, height); }
};

}  // namespace handgrad
