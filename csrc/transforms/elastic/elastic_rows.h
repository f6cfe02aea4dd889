// Where pixels of a row of the output are read, on the CPU, in lanes; and the gradient of the displacement. What is
// read: cpu/image_reader.h, cpu/image_derivatives.h.
#pragma once

#include "cpu/image_derivatives.h"
#include "cpu/image_reader.h"
#include "elastic_host.h"

namespace handgrad::elastic {

// Of one axis, whose centres are those of `count` pixels from `begin` on, or the same for all where a column is moved
// down.
template <bool Across, class C, class Step>
[[gnu::noinline]] void find_along(const Axis<C>& of, const C* displacement, Step step, int64_t index, int64_t count,
                                  C* __restrict to) {
  const Axis<C> axis = of;
  const int32_t first = static_cast<int32_t>(index);
  HANDGRAD_SIMD
  for (int32_t k = 0; k < static_cast<int32_t>(count); ++k) {
    to[k] = axis.position(axis.centre(Across ? first + k : first), displacement[k * step]);
  }
}

template <bool Across, class C>
void find_along(const Axis<C>& axis, const C* displacement, int64_t step, int64_t index, int64_t count, C* to) {
  if (step == 1) {
    find_along<Across>(axis, displacement, std::integral_constant<int64_t, 1>{}, index, count, to);
  } else if (step == 2) {
    find_along<Across>(axis, displacement, std::integral_constant<int64_t, 2>{}, index, count, to);
  } else {
    for (int64_t k = 0; k < count; ++k) {
      to[k] = axis.position(axis.centre(static_cast<int32_t>(index + (Across ? k : 0))), displacement[k * step]);
    }
  }
}

// Pixels [begin, begin + count) of row i.
template <class C>
void find_points(const ImagePlaces<C>& places, int64_t i, int64_t begin, int64_t count, C* x, C* y) {
  const View<const C, 4>& displacement = places.displacement;
  const int64_t step = displacement.strides[2];
  find_along<true>(places.across, displacement.at(places.n, i, begin, 0), step, begin, count, x);
  find_along<false>(places.down, displacement.at(places.n, i, begin, 1), step, i, count, y);
}

template <class N, class C, class Differentiator>
void differentiate_displacement(const Places<C>& places, const ImageFrame& frame, const Differentiator& differentiator,
                                const View<C, 4>& grad_displacement) {  // [N, H, W, 2]
  differentiator.for_each_row([&](int64_t n, int64_t i) {
    const ImagePlaces<N> of_image = places.template of_image<N>(n);
    for (int64_t j = 0; j < frame.width; ++j) {
      Point<N> grad{N(0), N(0)};
      differentiator.of_point(n, i, j, of_image.point(i, j), grad);
      *grad_displacement.at(n, i, j, 0) = wanted_of(grad.x) * places.across.half;
      *grad_displacement.at(n, i, j, 1) = wanted_of(grad.y) * places.down.half;
    }
  });
}

}  // namespace handgrad::elastic
