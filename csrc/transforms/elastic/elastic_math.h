// Where an output pixel is read, for host and device: its own centre and a displacement, in the arithmetic of
// torchvision's grid on a CPU, step by step, each rounded as it is there. What is read: math/image_sample.h.
//
// In order of appearance: an axis; places.
#pragma once

#include "abi/view.h"
#include "math/image_sample.h"

namespace handgrad::elastic {

using namespace image_sample;

// ---- an axis --------------------------------------------------------------------------------------------------------

// The centres of so many pixels between -1 and 1, as torch's linspace has them: from the end that is nearer.
template <class C>
struct Axis {
  C start, step, end, half;
  int32_t size;

  Axis() = default;
  explicit Axis(int64_t pixels)
      : start(static_cast<C>(static_cast<double>(1 - pixels) / static_cast<double>(pixels))),
        end(static_cast<C>(static_cast<double>(pixels - 1) / static_cast<double>(pixels))),
        half(static_cast<C>(pixels) / 2),
        size(static_cast<int32_t>(pixels)) {
    // Of one pixel there is no step.
    step = pixels > 1 ? (end - start) / static_cast<C>(pixels - 1) : C(0);
  }

  HANDGRAD_MATH C centre(int32_t index) const {
    const bool is_first_half = index < size / 2;
    const C steps = static_cast<C>(is_first_half ? index : size - 1 - index);
    return fused_multiply_add(is_first_half ? step : -step, steps, is_first_half ? start : end);
  }

  // Of a number between -1 and 1 the position in pixels, whose centres are whole numbers.
  template <class N>
  HANDGRAD_MATH N position(C centre, N displacement) const {
    return fused_multiply_add((N(centre) + displacement) + N(1), N(half), N(C(-0.5)));
  }
};

// ---- places ---------------------------------------------------------------------------------------------------------

// Of an image: the pixels of its output, each read beside itself.
template <class N>
struct ImagePlaces {
  using C = Plain<N>;
  Axis<C> across, down;
  View<const C, 4> displacement, direction;  // [N, H, W, 2]
  int64_t n;

  HANDGRAD_MATH Point<N> point(int64_t i, int64_t j) const {
    return {across.position(across.centre(static_cast<int32_t>(j)), moved(i, j, 0)),
            down.position(down.centre(static_cast<int32_t>(i)), moved(i, j, 1))};
  }

 private:
  HANDGRAD_MATH N moved(int64_t i, int64_t j, int axis) const {
    const C value = *displacement.at(n, i, j, axis);
    if constexpr (std::is_same_v<N, C>) {
      return value;
    } else {
      return {value, direction ? *direction.at(n, i, j, axis) : C(0)};
    }
  }
};

template <class C>
struct Places {
  Axis<C> across, down;
  View<const C, 4> displacement, direction;  // [N, H, W, 2]

  template <class N>
  HANDGRAD_MATH ImagePlaces<N> of_image(int64_t n) const {
    return {across, down, displacement, direction, n};
  }
};

}  // namespace handgrad::elastic
