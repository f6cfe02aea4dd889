// Axis-parallel boxes: areas, intersections, unions, in the arithmetic that decides at a threshold the same way on
// every device and for every instruction set: each step rounded by itself, in this order.
#pragma once

#include "abi/view.h"
#include "math/convert.h"
#include "math/scalar_math.h"

namespace handgrad {

// Corners (x1, y1) and (x2, y2), x1 <= x2 and y1 <= y2 if it is a box that anybody meant.
template <class C>
struct Box {
  static constexpr int kColumns = 4;
  C x1, y1, x2, y2;
};

// From and to memory, whose coordinates are `step` apart.
template <class C>
HANDGRAD_MATH void read_numbers(const C* from, int64_t step, Box<C>& box) {
  box = {from[0], from[step], from[2 * step], from[3 * step]};
}
template <class C>
HANDGRAD_MATH void write_numbers(const Box<C>& box, C* to, int64_t step) {
  to[0] = box.x1, to[step] = box.y1, to[2 * step] = box.x2, to[3 * step] = box.y2;
}
template <class C>
HANDGRAD_MATH void add_numbers(const Box<C>& box, C* to, int64_t step) {
  to[0] += box.x1, to[step] += box.y1, to[2 * step] += box.x2, to[3 * step] += box.y2;
}

template <class C>
HANDGRAD_MATH C smaller(C a, C b) {
  return b < a ? b : a;
}
template <class C>
HANDGRAD_MATH C larger(C a, C b) {
  return a < b ? b : a;
}

// Row k of a table, [K, 4], on the host.
template <class T>
Box<Compute<T>> read_box(const View<const T, 2>& boxes, int64_t k) {
  return {widen(*boxes.at(k, 0)), widen(*boxes.at(k, 1)), widen(*boxes.at(k, 2)), widen(*boxes.at(k, 3))};
}

template <class C>
HANDGRAD_MATH C area_of(const Box<C>& box) {
  return rounded_product(box.x2 - box.x1, box.y2 - box.y1);
}

template <class C>
HANDGRAD_MATH C intersection_of(const Box<C>& a, const Box<C>& b) {
  const C width = smaller(a.x2, b.x2) - larger(a.x1, b.x1), height = smaller(a.y2, b.y2) - larger(a.y1, b.y1);
  return rounded_product(larger(C(0), width), larger(C(0), height));
}

// The area that two boxes cover together; `intersection` is theirs.
template <class C>
HANDGRAD_MATH C union_of(C area_a, C area_b, C intersection) {
  return area_a + area_b - intersection;
}

// A box of finite, positive size. No other can share a part of more than nothing with any box: an empty or inverted one
// has no inside, and one that is infinite, or has NaN for a corner, has an area by which nothing can be divided.
template <class C>
HANDGRAD_MATH bool is_proper(const Box<C>& box, C area) {
  return box.x1 < box.x2 && box.y1 < box.y2 && area > 0 && area < std::numeric_limits<C>::infinity();
}

}  // namespace handgrad
