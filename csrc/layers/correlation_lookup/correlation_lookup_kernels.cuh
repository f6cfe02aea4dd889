// The kernels of a lookup of correlations on CUDA devices, but for the gradient of the second map
// (correlation_lookup_grad_map.cuh). One for Twice serves the double backward.
//
// A warp has a pixel of the first map, and its lanes have neighbouring channels: of a second map with channels
// innermost each pixel of the window is one run of memory. The window's products, or what they have for gradients, are
// in shared memory, from which each lane makes outputs of its own.
//
// In order of appearance: Operands, the tensors of a call; Pixel, a pixel and its window; the output; the gradients of
// the first map and of the points.
#pragma once

#include "abi/view.h"
#include "correlation_lookup_host.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace handgrad::correlation_lookup {

inline constexpr int kThreads = 128, kWarps = kThreads / kWarpSize;

// What is looked at, and how it moves (Twice only; what is null stands still).
template <class T>
struct Operands {
  View<const T, 4> fmap1, v_fmap1;             // [N, C, H, W]
  View<const T, 4> fmap2, v_fmap2;             // [N, C, H2, W2]
  View<const Compute<T>, 4> coords, v_coords;  // [N, 2, H, W]
};

// A pixel of the first map.
struct Pixel {
  int32_t n, y, x;

  __device__ Pixel(const Geometry& geometry, int64_t i) {
    const int64_t row = i / geometry.width;
    x = static_cast<int32_t>(i - row * geometry.width);
    n = static_cast<int32_t>(row / geometry.height);
    y = static_cast<int32_t>(row - n * geometry.height);
  }
  __device__ Pixel(int32_t n, int32_t y, int32_t x) : n(n), y(y), x(x) {}

  template <class T>
  __device__ Window<Compute<T>> window(const Geometry& geometry, const Operands<T>& operands) const {
    return Window<Compute<T>>(load(operands.coords.at(n, 0, y, x)), load(operands.coords.at(n, 1, y, x)),
                              geometry.radius, geometry.map_height, geometry.map_width);
  }
  template <class T>
  __device__ Compute<T> motion(const Operands<T>& operands, int axis) const {
    return operands.v_coords ? load(operands.v_coords.at(n, axis, y, x)) : Compute<T>(0);
  }
};

// products[j, i] of a window, those of pixels outside the map 0: one + two, each of a pixel's features and a map. A map
// that is null adds nothing. For the threads of a warp; they have them after __syncwarp().
template <class T>
__device__ void find_products(const Geometry& geometry, const Window<Compute<T>>& window, const Pixel& at,
                              const View<const T, 4>& one_features, const View<const T, 4>& one_map,
                              const View<const T, 4>& two_features, const View<const T, 4>& two_map,
                              Compute<T>* products) {
  using C = Compute<T>;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarpSize, side = static_cast<int32_t>(geometry.side());
  const C scale = static_cast<C>(geometry.scale);
  const auto add = [&](const View<const T, 4>& features, const View<const T, 4>& map, int32_t i, int32_t j,
                       C(&sums)[4]) {
  // Four columns at a time; what is beyond the last is read as the last.
#pragma unroll 2
    for (int64_t c = lane; c < geometry.channels; c += kWarpSize) {
      const C x = widen(load_constant(features.at(at.n, c, at.y, at.x)));
      const T* const row = map.at(at.n, c, window.row + i, window.column);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int32_t column = j + k < window.last_column ? j + k : window.last_column - 1;
        sums[k] += x * widen(load_constant(row + column * map.strides[3]));
      }
    }
  };
  for (int32_t k = lane; k < side * side; k += kWarpSize) products[k] = 0;
  __syncwarp();
#pragma unroll 1
  for (int32_t i = window.first_row; i < window.last_row; ++i) {
#pragma unroll 1
    for (int32_t j = window.first_column; j < window.last_column; j += 4) {
      C sums[4] = {};
      if (one_features && one_map) add(one_features, one_map, i, j, sums);
      if (two_features && two_map) add(two_features, two_map, i, j, sums);
      const C sum = warp_sum_of_four(sums);
      if (lane % 8 == 0 && j + lane / 8 < window.last_column) products[(j + lane / 8) * side + i] = scale * sum;
    }
  }
}

// The four products of output (a, b).
template <class C>
__device__ void read_corners(const C* products, int32_t side, int32_t a, int32_t b, C (&d)[4]) {
  const C* const at = products + a * side + b;
  d[0] = at[0], d[1] = at[1], d[2] = at[side], d[3] = at[side + 1];
}

// What product (j, i) has for a gradient, from those of the outputs that it is a corner of; for Twice how that changes.
template <class T, bool Twice>
__device__ Compute<T> factor(const Geometry& geometry, const Window<Compute<T>>& window, const Pixel& at,
                             const View<const T, 4>& grad, int32_t j, int32_t i, Compute<T> vx, Compute<T> vy) {
  Compute<T> sum = 0;
  const int32_t across = static_cast<int32_t>(geometry.across());
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const int32_t a = j - q / 2, b = i - q % 2;
    if (a < 0 || b < 0 || a >= across || b >= across) continue;
    const Compute<T> weight = Twice ? window.weight_change(q, vx, vy) : window.weight(q);
    sum += weight * widen(load_constant(grad.at(at.n, a * across + b, at.y, at.x)));
  }
  return static_cast<Compute<T>>(geometry.scale) * sum;
}

// ---- the output -----------------------------------------------------------------------------------------------------

// The output; for Twice its change along the motion. Shared memory: for each warp a window of products, for Twice
// another of their changes.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    output_kernel(Geometry geometry, Operands<T> operands, int64_t pixels, View<T, 4> output) {  // [N, outputs, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarpSize,
                lane = static_cast<int32_t>(threadIdx.x) % kWarpSize;
  const int64_t index = int64_t{blockIdx.x} * (blockDim.x / kWarpSize) + warp;
  if (index >= pixels) return;
  const int32_t side = static_cast<int32_t>(geometry.side()), across = side - 1;
  C* const products = shared + warp * (Twice ? 2 : 1) * side * side;
  const Pixel at(geometry, index);
  const Window<C> window = at.window(geometry, operands);
  C vx = 0, vy = 0;
  if constexpr (Twice) {
    vx = at.motion(operands, 0), vy = at.motion(operands, 1);
    find_products<T>(geometry, window, at, operands.v_fmap1, operands.fmap2, operands.fmap1, operands.v_fmap2,
                     products + side * side);
  }
  if (!Twice || operands.v_coords) {
    find_products<T>(geometry, window, at, operands.fmap1, operands.fmap2, {}, {}, products);
  }
  __syncwarp();
  for (int32_t k = lane; k < across * across; k += kWarpSize) {
    C d[4], value = 0;
    if constexpr (Twice) {
      read_corners(products + side * side, side, k / across, k % across, d);
      value = window.value(d);
      if (operands.v_coords) {
        read_corners(products, side, k / across, k % across, d);
        value += vx * window.along_x(d) + vy * window.along_y(d);
      }
    } else {
      read_corners(products, side, k / across, k % across, d);
      value = window.value(d);
    }
    if (window.is_nan) value = std::numeric_limits<C>::quiet_NaN();
    store(output.at(at.n, k, at.y, at.x), narrow<T>(value));
  }
}

// ---- the gradients of the first map and of the points ---------------------------------------------------------------

// Shared memory as above: factors of the products, for Twice also their changes.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_features_kernel(Geometry geometry, Operands<T> operands, int64_t pixels,
                         View<const T, 4> grad,    // [N, outputs, H, W]
                         View<T, 4> grad_fmap1) {  // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarpSize,
                lane = static_cast<int32_t>(threadIdx.x) % kWarpSize;
  const int64_t index = int64_t{blockIdx.x} * (blockDim.x / kWarpSize) + warp;
  if (index >= pixels) return;
  const int32_t side = static_cast<int32_t>(geometry.side());
  C* const factors = shared + warp * (Twice ? 2 : 1) * side * side;
  C* const changes = factors + side * side;
  const Pixel at(geometry, index);
  const Window<C> window = at.window(geometry, operands);
  const bool moves = Twice && operands.v_coords;
  C vx = 0, vy = 0;
  if constexpr (Twice) vx = at.motion(operands, 0), vy = at.motion(operands, 1);
  if (!window.is_outside()) {
    for (int32_t k = lane; k < side * side; k += kWarpSize) {
      factors[k] = factor<T, false>(geometry, window, at, grad, k / side, k % side, vx, vy);
      if constexpr (Twice) {
        if (moves) changes[k] = factor<T, true>(geometry, window, at, grad, k / side, k % side, vx, vy);
      }
    }
  }
  __syncwarp();
  const View<const T, 4>& straight = Twice ? operands.v_fmap2 : operands.fmap2;
  for (int64_t c = lane; c < geometry.channels; c += kWarpSize) {
    C sum = window.is_nan ? std::numeric_limits<C>::quiet_NaN() : C(0);
#pragma unroll 1
    for (int32_t i = window.first_row; i < window.last_row; ++i) {
#pragma unroll 2
      for (int32_t j = window.first_column; j < window.last_column; ++j) {
        if (straight) {
          const T* const pixel = straight.at(at.n, c, window.row + i, window.column + j);
          sum += factors[j * side + i] * widen(load_constant(pixel));
        }
        if constexpr (Twice) {
          if (moves) {
            const T* const pixel = operands.fmap2.at(at.n, c, window.row + i, window.column + j);
            sum += changes[j * side + i] * widen(load_constant(pixel));
          }
        }
      }
    }
    store(grad_fmap1.at(at.n, c, at.y, at.x), narrow<T>(sum));
  }
}

// Shared memory as above: products, for Twice also their changes.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_coords_kernel(Geometry geometry, Operands<T> operands, int64_t pixels,
                       View<const T, 4> grad,              // [N, outputs, H, W]
                       View<Compute<T>, 4> grad_coords) {  // [N, 2, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarpSize,
                lane = static_cast<int32_t>(threadIdx.x) % kWarpSize;
  const int64_t index = int64_t{blockIdx.x} * (blockDim.x / kWarpSize) + warp;
  if (index >= pixels) return;
  const int32_t side = static_cast<int32_t>(geometry.side()), across = side - 1;
  C* const products = shared + warp * (Twice ? 2 : 1) * side * side;
  const Pixel at(geometry, index);
  const Window<C> window = at.window(geometry, operands);
  C vx = 0, vy = 0;
  find_products<T>(geometry, window, at, operands.fmap1, operands.fmap2, {}, {}, products);
  if constexpr (Twice) {
    vx = at.motion(operands, 0), vy = at.motion(operands, 1);
    find_products<T>(geometry, window, at, operands.v_fmap1, operands.fmap2, operands.fmap1, operands.v_fmap2,
                     products + side * side);
  }
  __syncwarp();
  C sums[4] = {};
  for (int32_t k = lane; k < across * across; k += kWarpSize) {
    const C g = widen(load_constant(grad.at(at.n, k, at.y, at.x)));
    C d[4];
    read_corners(products, side, k / across, k % across, d);
    if constexpr (Twice) {
      const C both = window.along_both(d);
      read_corners(products + side * side, side, k / across, k % across, d);
      sums[0] += g * (window.along_x(d) + vy * both);
      sums[1] += g * (window.along_y(d) + vx * both);
    } else {
      sums[0] += g * window.along_x(d);
      sums[1] += g * window.along_y(d);
    }
  }
  const C sum = warp_sum_of_four(sums);
  if (lane == 0 || lane == 8) {
    store(grad_coords.at(at.n, lane / 8, at.y, at.x), window.is_nan ? std::numeric_limits<C>::quiet_NaN() : sum);
  }
}

}  // namespace handgrad::correlation_lookup
