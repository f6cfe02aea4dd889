// Where pixels of a row of the output are read, on the CPU, in lanes. What is read there: cpu/image_reader.h.
#pragma once

#include "cpu/image_reader.h"
#include "warp_host.h"

namespace handgrad::warp {

// Pixels [begin, begin + count) of row i.
template <class C>
[[gnu::noinline]] void find_points(const ImagePlaces<C>& places, int64_t i, int64_t begin, int64_t count,
                                   C* __restrict x, C* __restrict to_y) {
  const Frame frame = places.frame;
  const Matrix<C> by = places.matrix;
  const C y = frame.base<C>(i, frame.out_height);
  const C first = frame.base<C>(begin, frame.out_width);
  const auto fill = [&](auto projective) {
    Frame known = frame;
    known.projective = decltype(projective)::value;
    HANDGRAD_SIMD
    for (int32_t k = 0; k < static_cast<int32_t>(count); ++k) {
      const Position<C> at(known, by, first + static_cast<C>(k), y);
      x[k] = at.x, to_y[k] = at.y;
    }
  };
  dispatch_bool(frame.projective, fill);
}

}  // namespace handgrad::warp
