// One pixel on CUDA devices: the steps of its image, forth and back, and its way between memory and registers.
//
// In order of appearance: Chain, the steps of an image as a device finds them; one step, and all of them; the way back;
// memory.
#pragma once

#include "adjust_colors_host.h"
#include "cuda/access.cuh"
#include "math/statistics.h"
#include "math/stored.h"

namespace handgrad::adjust_colors {

// Numbers of a step that are found out by kernels: its mean, and what the gradient of the mean gives to every gray,
// each with a tangent.
inline constexpr int kFound = 4;

// Dual numbers of doubles, whatever they are used as.
template <class C>
HANDGRAD_MATH void assign(double value, double, C& to) {
  to = static_cast<C>(value);
}
template <class C>
HANDGRAD_MATH void assign(double value, double tangent, Dual<C>& to) {
  to = {static_cast<C>(value), static_cast<C>(tangent)};
}
HANDGRAD_MATH double tangent_of(float) { return 0; }
HANDGRAD_MATH double tangent_of(double) { return 0; }
template <class C>
HANDGRAD_MATH double tangent_of(Dual<C> x) {
  return static_cast<double>(x.tangent);
}

struct Chain {
  ChainTable table;
  double* found;  // [N, K, kFound]

  __device__ double* found_of(int64_t n, int64_t k) const { return found + (n * table.steps + k) * kFound; }

  template <class N>
  __device__ Step<N> step(int64_t n, int64_t k) const {
    Step<N> step;
    table.fill(n, k, step);
    if (step.operation == Operation::contrast) assign(load(found_of(n, k)), load(found_of(n, k) + 1), step.mean);
    return step;
  }
  template <class N>
  __device__ N of_gray(int64_t n, int64_t k) const {
    N number;
    assign(load(found_of(n, k) + 2), load(found_of(n, k) + 3), number);
    return number;
  }
};

// ---- one pixel ------------------------------------------------------------------------------------------------------

template <class N>
struct Pixel {
  N red, green, blue;
};

// Levels are whole numbers in float.
template <bool kLevels, class N>
__device__ __forceinline__ N gray_of(const Pixel<N>& x, int64_t channels) {
  if (channels == 1) return x.red;
  if constexpr (kLevels) {
    return gray_level(x.red, x.green, x.blue);
  } else {
    return gray(x.red, x.green, x.blue);
  }
}

template <bool kLevels, class N>
__device__ __forceinline__ N blend_of(N x, N with, const Step<N>& step) {
  if constexpr (kLevels) {
    return blended_level(x, with, step);
  } else {
    return unit_of(blended(x, with, step));
  }
}

template <bool kLevels, class N>
__device__ __forceinline__ N brighter_of(N x, const Step<N>& step) {
  if constexpr (kLevels) {
    return brighter_level(x, step.factor);
  } else {
    return unit_of(x * step.factor);
  }
}

template <bool kLevels, class N>
__device__ __forceinline__ void turn_of(const Step<N>& step, Pixel<N>& x) {
  if constexpr (kLevels) {
    turn_level_hue(x.red, x.green, x.blue, step.factor);
  } else if constexpr (std::is_floating_point_v<N>) {
    turn_number_hue(x.red, x.green, x.blue, step.factor);
  } else {
    Turn<N>(x.red, x.green, x.blue, step.factor).apply(x.red, x.green, x.blue);
  }
}

template <bool kLevels, class N>
__device__ __forceinline__ void apply(const Step<N>& step, int64_t channels, Pixel<N>& x) {
  if (step.is_idle(channels)) return;
  switch (step.operation) {
    case Operation::brightness:
      x = {brighter_of<kLevels>(x.red, step), brighter_of<kLevels>(x.green, step), brighter_of<kLevels>(x.blue, step)};
      break;
    case Operation::hue: turn_of<kLevels>(step, x); break;
    case Operation::grayscale: x.red = x.green = x.blue = gray_of<kLevels>(x, channels); break;
    default: {
      const N with = step.operation == Operation::contrast ? step.mean : gray_of<kLevels>(x, channels);
      x = {blend_of<kLevels>(x.red, with, step), blend_of<kLevels>(x.green, with, step),
           blend_of<kLevels>(x.blue, with, step)};
    }
  }
}

// The first `steps` steps of image n.
template <bool kLevels, class N>
__device__ __forceinline__ void apply_chain(const Chain& chain, int64_t n, int64_t steps, int64_t channels,
                                            Pixel<N>& x) {
#pragma unroll 1
  for (int64_t k = 0; k < steps; ++k) apply<kLevels>(chain.step<N>(n, k), channels, x);
}

// From the gradients of what a step makes of x to those of x, in place.
template <class N>
__device__ __forceinline__ Contribution<N> pull_back(const Step<N>& step, N of_gray, int64_t channels,
                                                     const Pixel<N>& x, Pixel<N>& grad) {
  Contribution<N> to{N(0), N(0)};
  if (step.is_idle(channels)) return to;
  switch (step.operation) {
    case Operation::brightness:
      pull_back_brightness(x.red, step, grad.red, to.factor);
      pull_back_brightness(x.green, step, grad.green, to.factor);
      pull_back_brightness(x.blue, step, grad.blue, to.factor);
      break;
    case Operation::hue:
      to.factor = Turn<N>(x.red, x.green, x.blue, step.factor).pull_back(grad.red, grad.green, grad.blue);
      break;
    case Operation::grayscale: {
      const N to_gray = grad.red + grad.green + grad.blue;
      grad = {N(0), N(0), N(0)};
      give_to_channels(to_gray, grad.red, grad.green, grad.blue);
      break;
    }
    default: {
      const bool is_contrast = step.operation == Operation::contrast;
      const N with = is_contrast ? step.mean : gray_of<false>(x, channels);
      pull_back_blend(x.red, with, step, grad.red, to.factor, to.mean);
      pull_back_blend(x.green, with, step, grad.green, to.factor, to.mean);
      pull_back_blend(x.blue, with, step, grad.blue, to.factor, to.mean);
      const N to_gray = is_contrast ? of_gray : to.mean;
      if (channels == 1) {
        grad.red = grad.red + to_gray;
      } else {
        give_to_channels(to_gray, grad.red, grad.green, grad.blue);
      }
    }
  }
  return to;
}

// Back over steps [first, …) of the chain, each of which needs what the steps before it have made of x: that is made
// again, which is cheaper than memory for it.
template <class N>
__device__ __forceinline__ Contribution<N> pull_back_chain(const Chain& chain, int64_t n, int64_t first,
                                                           int64_t channels, const Pixel<N>& x, Pixel<N>& grad) {
  Contribution<N> last{N(0), N(0)};
#pragma unroll 1
  for (int64_t k = chain.table.steps; k-- > first;) {
    Pixel<N> before = x;
    apply_chain<false>(chain, n, k, channels, before);
    const Step<N> step = chain.step<N>(n, k);
    const N of_gray = step.operation == Operation::contrast ? chain.of_gray<N>(n, k) : N(0);
    last = pull_back(step, of_gray, channels, before, grad);
  }
  return last;
}

// ---- memory ---------------------------------------------------------------------------------------------------------

template <class C>
__device__ __forceinline__ C load_number(const StoredView<const C, 4>& from, int64_t n, int64_t c, int64_t i,
                                         int64_t j) {
  C number = 0;
  const Stored<const C> element = from.at(n, c, i, j);
  dispatch_storage<C>(element.dtype,
                      [&](auto tag) { number = widen(load(element.template as<typename decltype(tag)::type>())); });
  return number;
}
template <class C>
__device__ __forceinline__ void store_number(const StoredView<C, 4>& to, int64_t n, int64_t c, int64_t i, int64_t j,
                                             C number) {
  const Stored<C> element = to.at(n, c, i, j);
  dispatch_storage<C>(element.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    store(element.template as<T>(), narrow<T>(number));
  });
}

// An image; with tangents, if it is of dual numbers and there is a direction.
template <class N>
struct Source {
  using C = Plain<N>;
  StoredView<const C, 4> values, tangents;

  __device__ N number(int64_t n, int64_t c, int64_t i, int64_t j) const {
    const C value = load_number(values, n, c, i, j);
    if constexpr (std::is_floating_point_v<N>) {
      return value;
    } else {
      return {value, tangents ? load_number(tangents, n, c, i, j) : C(0)};
    }
  }
  __device__ Pixel<N> pixel(int64_t n, int64_t channels, int64_t i, int64_t j) const {
    const N first = number(n, 0, i, j);
    return channels == 1 ? Pixel<N>{first, N(0), N(0)} : Pixel<N>{first, number(n, 1, i, j), number(n, 2, i, j)};
  }
};

// Levels.
template <>
struct Source<uint8_t> {
  View<const uint8_t, 4> values;

  __device__ float number(int64_t n, int64_t c, int64_t i, int64_t j) const {
    return static_cast<float>(load(values.at(n, c, i, j)));
  }
  __device__ Pixel<float> pixel(int64_t n, int64_t channels, int64_t i, int64_t j) const {
    const float first = number(n, 0, i, j);
    return channels == 1 ? Pixel<float>{first, 0, 0} : Pixel<float>{first, number(n, 1, i, j), number(n, 2, i, j)};
  }
};

// A gradient of the result, divided by the deviations.
template <class C>
__device__ __forceinline__ Pixel<C> load_grad(const StoredView<const C, 4>& from, const Statistics& statistics,
                                              int64_t n, int64_t i, int64_t j) {
  const C first = statistics.apply(load_number(from, n, 0, i, j), 0);
  if (statistics.count == 1) return {first, C(0), C(0)};
  return {first, statistics.apply(load_number(from, n, 1, i, j), 1),
          statistics.apply(load_number(from, n, 2, i, j), 2)};
}

}  // namespace handgrad::adjust_colors
