// The kernels of adjust_sharpness on CUDA devices. A block takes a tile of a channel: the pixels that are around it are
// loaded into shared memory once. Of a derivative the masked gradient is there too, with zeros for the border.
//
// In order of appearance: a tile; values; derivatives; sums over images.
#pragma once

#include "adjust_sharpness_host.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"

namespace handgrad::adjust_sharpness {

inline constexpr int kThreads = 256;

// ---- a tile ---------------------------------------------------------------------------------------------------------

// In is uint8_t, or C for numbers of a type that is computed in C.
template <class In>
struct Images {
  using From = StoredView<const In, 4>;
  using To = StoredView<In, 4>;
};
template <>
struct Images<uint8_t> {
  using From = View<const uint8_t, 4>;
  using To = View<uint8_t, 4>;
};

// Of `Size` pixels along both axes. Channels are next to each other: of images that have them innermost, neighbours in
// time share what is cached.
template <int Size>
struct Tile {
  int64_t n, c, top, left;
  static constexpr int kPixels = Size * Size;

  __device__ Tile(const Geometry& geometry, int64_t index) {
    const int64_t across = tiles_along(geometry.width), down = tiles_along(geometry.height);
    const int64_t place = index / geometry.channels, row = place / across;
    c = index - place * geometry.channels;
    left = (place - row * across) * Size;
    n = row / down;
    top = (row - n * down) * Size;
  }
  HANDGRAD_MATH static int64_t tiles_along(int64_t size) { return (size + Size - 1) / Size; }

  // body(y, x, i) for the pixels of the tile and `Around` more on every side, of which i counts all; those beyond the
  // image too.
  template <int Around, class Body>
  __device__ __forceinline__ void for_each(const Body& body) const {
    constexpr int kSide = Size + 2 * Around;
#pragma unroll 1
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kSide * kSide; i += kThreads) {
      body(top + i / kSide - Around, left + i % kSide - Around, i);
    }
  }
};

HANDGRAD_MATH bool is_in_image(const Geometry& geometry, int64_t y, int64_t x) {
  return y >= 0 && y < geometry.height && x >= 0 && x < geometry.width;
}

// The sum of nine numbers around one of a patch whose rows have so many, in the order of the CPU; of an image and its
// mirror it is the same.
template <class C>
__device__ __forceinline__ C column_sum(const C* middle, int side) {
  return (middle[-side] + middle[side]) + middle[0];
}
template <class C>
__device__ __forceinline__ C mean_less_at(const C* middle, int side) {
  return mean_less(middle[0], column_sum(middle - 1, side), column_sum(middle, side), column_sum(middle + 1, side));
}

// ---- values ---------------------------------------------------------------------------------------------------------

inline constexpr int kTile = 32;

template <class In>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sharpen_kernel(Geometry geometry, FactorTable table, typename Images<In>::From image,
                   typename Images<In>::To output) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  constexpr int kSide = kTile + 2;
  constexpr bool kLevels = sizeof(In) == 1;
  using C = std::conditional_t<kLevels, int32_t, In>;
  __shared__ C patch[kSide * kSide];
  const Tile<kTile> tile(geometry, blockIdx.x);
  tile.for_each<1>([&](int64_t y, int64_t x, int32_t i) {
    if (!is_in_image(geometry, y, x)) return;
    if constexpr (kLevels) {
      patch[i] = load(image.at(tile.n, tile.c, y, x));
    } else {
      patch[i] = read(image.at(tile.n, tile.c, y, x));
    }
  });
  __syncthreads();
  const auto rest = static_cast<std::conditional_t<kLevels, float, C>>(table.rest(tile.n));
  tile.for_each<0>([&](int64_t y, int64_t x, int32_t i) {
    if (!is_in_image(geometry, y, x)) return;
    const C* const own = patch + (i / kTile + 1) * kSide + i % kTile + 1;
    const bool is_border = geometry.is_border(y, x);
    if constexpr (kLevels) {
      int32_t level = own[0];
      if (!is_border) {
        const int32_t columns = column_sum(own - 1, kSide) + column_sum(own, kSide) + column_sum(own + 1, kSide);
        level = sharpened_level(level, blurred_level(static_cast<uint16_t>(columns + 4 * level)), rest);
      }
      store(output.at(tile.n, tile.c, y, x), static_cast<uint8_t>(level));
    } else {
      const C blended = is_border ? own[0] : own[0] + rounded_product(rest, mean_less_at(own, kSide));
      write(output.at(tile.n, tile.c, y, x), geometry.is_small() ? blended : unit_of(blended));
    }
  });
}

// ---- derivatives ----------------------------------------------------------------------------------------------------

template <class C>
struct DeviceDerivative {
  StoredView<const C, 4> image, grad_output, direction;
  StoredView<C, 4> grad_grad_output, grad_image;
  double* sums = nullptr;  // one a block
  bool is_second = false;
};

// The shared memory of a block: pixels two and one around the tile, and the masked gradient one around it.
template <class C>
struct Patches {
  static constexpr int kWide = kTile + 4, kNear = kTile + 2;
  C image[kWide * kWide], direction[kNear * kNear], inner[kNear * kNear];
};

template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    differentiate_kernel(Geometry geometry, FactorTable table, DeviceDerivative<C> call) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  constexpr int kWide = Patches<C>::kWide, kNear = Patches<C>::kNear;
  __shared__ Patches<C> patches;
  const Tile<kTile> tile(geometry, blockIdx.x);
  const auto load_from = [&](const StoredView<const C, 4>& view, C* patch) {
    return [&geometry, &tile, &view, patch](int64_t y, int64_t x, int32_t i) {
      if (is_in_image(geometry, y, x)) patch[i] = read(view.at(tile.n, tile.c, y, x));
    };
  };
  tile.for_each<2>(load_from(call.image, patches.image));
  if (call.direction) tile.for_each<1>(load_from(call.direction, patches.direction));
  __syncthreads();
  const C rest = static_cast<C>(table.rest(tile.n)), along = static_cast<C>(table.along(tile.n));
  const bool is_small = geometry.is_small();
  // Of a pixel at most one beyond the tile.
  const auto wide_at = [&](int64_t y, int64_t x) {
    return patches.image + (y - tile.top + 2) * kWide + x - tile.left + 2;
  };
  const auto near_at = [&](int64_t y, int64_t x) { return (y - tile.top + 1) * kNear + x - tile.left + 1; };
  const auto less_of = [&](int64_t y, int64_t x) {
    return geometry.is_border(y, x) ? C(0) : mean_less_at(wide_at(y, x), kWide);
  };
  const auto is_kept = [&](int64_t y, int64_t x) {
    const C own = wide_at(y, x)[0];
    return is_small || is_inside(geometry.is_border(y, x) ? own : own + rounded_product(rest, less_of(y, x)));
  };
  const auto masked = [&](int64_t y, int64_t x) {
    return is_kept(y, x) ? read(call.grad_output.at(tile.n, tile.c, y, x)) : C(0);
  };
  // Where the gradient of grad_output alone is asked for, grad_output is not read.
  const bool needs_gradient = call.grad_image || call.sums;
  tile.for_each<1>([&](int64_t y, int64_t x, int32_t i) {
    const bool counts = needs_gradient && is_in_image(geometry, y, x) && !geometry.is_border(y, x);
    patches.inner[i] = counts ? masked(y, x) : C(0);
  });
  __syncthreads();
  double sum = 0;
  tile.for_each<0>([&](int64_t y, int64_t x, int) {
    if (!is_in_image(geometry, y, x)) return;
    const bool is_border = geometry.is_border(y, x);
    const C less = less_of(y, x);
    const C* const direction = patches.direction + near_at(y, x);
    const C* const inner = patches.inner + near_at(y, x);
    const C direction_less = call.direction && !is_border ? mean_less_at(direction, kNear) : C(0);
    const C factor_less = call.is_second ? direction_less : less;
    sum -= static_cast<double>(inner[0]) * static_cast<double>(factor_less);
    if (call.grad_grad_output) {
      const C moved = call.direction ? direction[0] + rest * direction_less : C(0);
      write(call.grad_grad_output.at(tile.n, tile.c, y, x), is_kept(y, x) ? moved - along * less : C(0));
    }
    if (call.grad_image) {
      const C spread = mean_less_at(inner, kNear);
      const C gradient = call.is_second ? -along * spread : (is_border ? masked(y, x) : inner[0]) + rest * spread;
      write(call.grad_image.at(tile.n, tile.c, y, x), gradient);
    }
  });
  if (call.sums) store_block_sum<kThreads>(sum, call.sums);
}

// A thread for each image adds up its tiles in order.
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    add_tiles_kernel(const double* sums, int64_t tiles, int64_t images, View<double, 1> results) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n >= images) return;
  double total = 0;
#pragma unroll 1
  for (int64_t tile = 0; tile < tiles; ++tile) total += load(sums + n * tiles + tile);
  store(results.at(n), total);
}

}  // namespace handgrad::adjust_sharpness
