// The kernels of gaussian_blur on CUDA devices.
//
// A first kernel makes the filters of each image, in double and in the order of the CPU, so that the weights are the
// same; nothing is waited for. Then a block takes a tile of a channel: the pixels that its windows reach are loaded
// into shared memory, filtered along rows and then along columns; of windows too large for that, into a piece of global
// memory that belongs to the block, and tiles are launched some at a time.
//
// In order of appearance: the filters; DeviceCall; sums of one filter; the pass; sums over images.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"
#include "gaussian_blur_host.h"

namespace handgrad::gaussian_blur {

inline constexpr int kThreads = 256;

// ---- filters --------------------------------------------------------------------------------------------------------

// A block has one axis of one image.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    filters_kernel(Geometry geometry, SigmaTable table, C* filters) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t n = blockIdx.x / 2;
  const int axis = static_cast<int>(blockIdx.x % 2);
  const int64_t taps = geometry.radius[axis] + 1;
  __shared__ double exponentials[kThreads];
  __shared__ double sums[3];
  Gaussian gaussian(table.of(n, axis));
  for (int64_t first = 0; first < taps; first += kThreads) {
    exponentials[threadIdx.x] = gaussian.exponential(first + threadIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) {
      const int64_t count = taps - first < kThreads ? taps - first : kThreads;
#pragma unroll 1
      for (int64_t k = 0; k < count; ++k) gaussian.add(first + k, exponentials[k]);
      sums[0] = gaussian.total, sums[1] = gaussian.squares, sums[2] = gaussian.fourths;
    }
    __syncthreads();
  }
  gaussian.total = sums[0], gaussian.squares = sums[1], gaussian.fourths = sums[2];
  const double along = table.along(n, axis);
  C* const to = filters + n * geometry.filters();
#pragma unroll 1
  for (int64_t j = threadIdx.x; j < taps; j += kThreads) {
    const double e = gaussian.exponential(j);
    const double slope = gaussian.weight(j, e, 1), curvature = gaussian.weight(j, e, 2);
    const double values[kFilters] = {gaussian.weight(j, e, 0), slope, curvature, slope * along, curvature * along};
#pragma unroll
    for (int32_t filter = 0; filter < kFilters; ++filter) {
      store(to + geometry.filter_at(axis, filter) + j, static_cast<C>(values[filter]));
    }
  }
}

// ---- a call ---------------------------------------------------------------------------------------------------------

// In is uint8_t, or C for numbers of a type that is computed in C.
template <class In, class C>
struct Images {
  using From = std::conditional_t<sizeof(In) == 1, View<const uint8_t, 4>, StoredView<const C, 4>>;
  using To = std::conditional_t<sizeof(In) == 1, View<uint8_t, 4>, StoredView<C, 4>>;
};

__device__ __forceinline__ float pixel_of(const View<const uint8_t, 4>& view, int64_t n, int64_t c, int64_t y,
                                          int64_t x) {
  return static_cast<float>(load(view.at(n, c, y, x)));
}
template <class C>
__device__ __forceinline__ C pixel_of(const StoredView<const C, 4>& view, int64_t n, int64_t c, int64_t y, int64_t x) {
  return read(view.at(n, c, y, x));
}
__device__ __forceinline__ void keep(const View<uint8_t, 4>& view, int64_t n, int64_t c, int64_t y, int64_t x,
                                     float value) {
  store(view.at(n, c, y, x), level_of(value));
}
template <class C>
__device__ __forceinline__ void keep(const StoredView<C, 4>& view, int64_t n, int64_t c, int64_t y, int64_t x,
                                     C value) {
  write(view.at(n, c, y, x), value);
}

template <class In, class C>
struct DeviceCall {
  using From = typename Images<In, C>::From;
  using To = typename Images<In, C>::To;

  Geometry geometry;
  Pass pass;
  From sources[2], weight;
  To output;
  const C* filters;
  int64_t filter_step;  // from image to image; 0 if all have the same
  int32_t tile[2], reached[2];
  int64_t tiles[2], items;

  DeviceCall(const Geometry& geometry, const Pass& pass, int32_t width, int32_t height)
      : geometry(geometry), pass(pass), tile{width, height} {
    items = geometry.batch * geometry.channels;
    for (int axis = 0; axis < 2; ++axis) {
      tiles[axis] = (geometry.size(axis) + tile[axis] - 1) / tile[axis];
      // All of about the same size.
      tile[axis] = static_cast<int32_t>((geometry.size(axis) + tiles[axis] - 1) / tiles[axis]);
      reached[axis] = tile[axis] + 2 * geometry.radius[axis];
      items *= tiles[axis];
    }
  }

  // Numbers of scratch memory: filters, the pixels of sources, planes.
  HANDGRAD_MATH int64_t patch() const { return int64_t{reached[0]} * reached[1]; }
  HANDGRAD_MATH int64_t plane() const { return int64_t{tile[0]} * reached[1]; }
  HANDGRAD_MATH int64_t scratch() const { return geometry.filters() + pass.sources * patch() + pass.planes * plane(); }
};

// ---- one filter -----------------------------------------------------------------------------------------------------

// A line of numbers through scratch memory, and where on it pixel 0 of the image would be.
template <class C>
struct Line {
  const C* zero;
  int32_t step;

  __device__ C at(int64_t i) const { return zero[i * step]; }
};

// The sum of a window around pixel i, in the order of the CPU. Zeros lie beyond the image if the filter is transposed;
// what its mirrors give back is added then.
template <class C>
__device__ __forceinline__ C filtered(const Line<C>& line, const C* weights, int32_t radius, int64_t i, int64_t size,
                                      bool transposed, C total) {
  total += rounded_product(weights[0], line.at(i));
#pragma unroll 1
  for (int32_t j = 1; j <= radius; ++j) total += rounded_product(weights[j], line.at(i - j) + line.at(i + j));
  if (!transposed) return total;
  const int64_t last = size - 1;
#pragma unroll 1
  for (int64_t other = 0; i > 0 && other + i <= radius; ++other) total += weights[other + i] * line.at(other);
  const int64_t away = last - i;
#pragma unroll 1
  for (int64_t other = 0; away > 0 && other + away <= radius; ++other) {
    total += weights[other + away] * line.at(last - other);
  }
  return total;
}

// ---- the pass -------------------------------------------------------------------------------------------------------

// The work of a block on one tile.
template <class In, class C>
struct Tile {
  const DeviceCall<In, C>& call;
  C *filters, *patches, *planes;
  int64_t n, c, origin[2];

  __device__ Tile(const DeviceCall<In, C>& call, C* scratch)
      : call(call),
        filters(scratch),
        patches(scratch + call.geometry.filters()),
        planes(patches + call.pass.sources * call.patch()) {}

  // Channels are next to each other: of images that have them innermost, neighbours in time share what is cached.
  __device__ void move_to(int64_t item) {
    int64_t rest = item / call.geometry.channels;
    c = item - rest * call.geometry.channels;
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t next = rest / call.tiles[axis];
      origin[axis] = (rest - next * call.tiles[axis]) * call.tile[axis];
      rest = next;
    }
    n = rest;
  }

  // body(row, column, index) for the elements of a block of numbers.
  template <class Body>
  __device__ __forceinline__ void for_each(int32_t height, int32_t width, const Body& body) const {
    const uint32_t count = static_cast<uint32_t>(height) * static_cast<uint32_t>(width);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
      const uint32_t row = i / static_cast<uint32_t>(width);
      body(static_cast<int32_t>(row), static_cast<int32_t>(i - row * static_cast<uint32_t>(width)), i);
    }
  }

  __device__ void load_filters() const {
    const int64_t count = call.geometry.filters();
    const C* const from = call.filters + n * call.filter_step;
    const int64_t first = call.geometry.filter_at(0, 1), second = call.geometry.filter_at(1, 0);
#pragma unroll 1
    for (int64_t j = threadIdx.x; j < count; j += kThreads) {
      // Of a value the weights alone.
      const bool is_weight = j < first || (j >= second && j <= second + call.geometry.radius[1]);
      if (is_weight || call.pass.is_differentiated()) filters[j] = load(from + j);
    }
  }

  __device__ void load_patch(int32_t source) const {
    const Geometry& geometry = call.geometry;
    C* const to = patches + source * call.patch();
    for_each(call.reached[1], call.reached[0], [&](int32_t row, int32_t column, uint32_t i) {
      const int64_t y = origin[1] + row - geometry.radius[1], x = origin[0] + column - geometry.radius[0];
      const bool inside = y >= 0 && y < geometry.height && x >= 0 && x < geometry.width;
      // A tile at the end may reach beyond what a mirror shows.
      const bool seen =
          !call.pass.transposed && y < geometry.height + geometry.radius[1] && x < geometry.width + geometry.radius[0];
      to[i] = inside ? pixel_of(call.sources[source], n, c, y, x)
              : seen ? pixel_of(call.sources[source], n, c, mirrored(y, geometry.height), mirrored(x, geometry.width))
                     : C(0);
    });
  }

  __device__ void make_plane(int32_t plane) const {
    const Geometry& geometry = call.geometry;
    C* const to = planes + plane * call.plane();
    for_each(call.reached[1], call.tile[0], [&](int32_t row, int32_t column, uint32_t i) {
      const int64_t x = origin[0] + column;
      if (x >= geometry.width) return;
      C total = 0;
#pragma unroll 1
      for (int32_t t = 0; t < call.pass.plane[plane].count; ++t) {
        const Term term = call.pass.plane[plane].terms[t];
        const C* const line = patches + term.from * call.patch() + int64_t{row} * call.reached[0];
        total =
            filtered(Line<C>{line + geometry.radius[0] - origin[0], 1}, filters + geometry.filter_at(0, term.filter),
                     geometry.radius[0], x, geometry.width, call.pass.transposed, total);
      }
      to[i] = total;
    });
  }

  // body(y, x, value) for the numbers of an output.
  template <class Body>
  __device__ __forceinline__ void for_output(int32_t output, const Body& body) const {
    const Geometry& geometry = call.geometry;
    for_each(call.tile[1], call.tile[0], [&](int32_t row, int32_t column, uint32_t) {
      const int64_t y = origin[1] + row, x = origin[0] + column;
      if (y >= geometry.height || x >= geometry.width) return;
      C total = 0;
#pragma unroll 1
      for (int32_t t = 0; t < call.pass.output[output].count; ++t) {
        const Term term = call.pass.output[output].terms[t];
        const C* const line = planes + term.from * call.plane() + column;
        total = filtered(Line<C>{line + (geometry.radius[1] - origin[1]) * call.tile[0], call.tile[0]},
                         filters + geometry.filter_at(1, term.filter), geometry.radius[1], y, geometry.height,
                         call.pass.transposed, total);
      }
      body(y, x, total);
    });
  }
};

// A block for each item from the first on.
template <class In, class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    pass_kernel(const DeviceCall<In, C> call, int64_t first, C* global, double* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  Tile<In, C> tile(call, global ? global + blockIdx.x * call.scratch() : shared);
  const int64_t item = first + blockIdx.x;
  tile.move_to(item);
  tile.load_filters();
  for (int32_t source = 0; source < call.pass.sources; ++source) tile.load_patch(source);
  __syncthreads();
  for (int32_t plane = 0; plane < call.pass.planes; ++plane) tile.make_plane(plane);
  __syncthreads();
  if (call.output) {
    tile.for_output(0, [&](int64_t y, int64_t x, C value) { keep(call.output, tile.n, tile.c, y, x, value); });
    return;
  }
  if constexpr (sizeof(In) > 1) {
#pragma unroll 1
    for (int32_t o = 0; o < call.pass.outputs; ++o) {
      double total = 0;
      tile.for_output(o, [&](int64_t y, int64_t x, C value) {
        const C weight = pixel_of(call.weight, tile.n, tile.c, y, x);
        total += static_cast<double>(value) * static_cast<double>(weight);
      });
      total = block_sum<kThreads>(total);
      if (threadIdx.x == 0) store(sums + 2 * item + o, total);
      __syncthreads();
    }
  }
}

// A thread for each sum of an image adds up its tiles in order.
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sums_kernel(const double* sums, int64_t tiles, int64_t images, View<double, 2> results) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k >= 2 * images) return;
  double total = 0;
#pragma unroll 1
  for (int64_t tile = 0; tile < tiles; ++tile) total += load(sums + 2 * (k / 2 * tiles + tile) + k % 2);
  store(results.at(k / 2, k % 2), total);
}

}  // namespace handgrad::gaussian_blur
