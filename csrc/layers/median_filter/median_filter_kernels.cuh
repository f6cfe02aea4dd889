// The kernels of median_filter on CUDA devices.
//
// A block takes a tile of a plane: the pixels that its windows reach, with what is behind the border, are loaded into
// shared memory; of windows too large for that, into a piece of global memory that belongs to the block. A thread finds
// the median of its window there. Of a gradient the windows around the tile are looked at too, from twice the reach:
// then each pixel gathers from the windows that have selected it.
//
// In order of appearance: DeviceCall; the work of a block: loading, medians, the three passes; the kernel.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/stored.cuh"
#include "median_filter_host.h"

namespace handgrad::median_filter {

inline constexpr int kThreads = 256;

// ---- a call ---------------------------------------------------------------------------------------------------------

// Axis 0 is that of rows.
template <class C>
struct DeviceCall {
  Geometry geometry;
  Pass pass;
  StoredView<const C, 4> input, source;
  StoredView<C, 4> output;
  int32_t tile[2], pad[2], reached[2], around[2];
  int64_t tiles[2], items;

  DeviceCall(const Geometry& geometry, Pass pass, const Tensor& input, const Tensor& source, const Tensor& output,
             int32_t height, int32_t width)
      : geometry(geometry),
        pass(pass),
        input(stored_view<C, 4>(input)),
        source(stored_view<C, 4>(source)),
        output(mutable_stored_view<C, 4>(output)),
        tile{height, width} {
    items = geometry.batch * geometry.channels;
    for (int axis = 0; axis < 2; ++axis) {
      tiles[axis] = (geometry.size[axis] + tile[axis] - 1) / tile[axis];
      // All of about the same size.
      tile[axis] = static_cast<int32_t>((geometry.size[axis] + tiles[axis] - 1) / tiles[axis]);
      pad[axis] = (pass == kGradient ? 2 : 1) * geometry.radius[axis];
      reached[axis] = tile[axis] + 2 * pad[axis];
      around[axis] = tile[axis] + 2 * geometry.radius[axis];
      items *= tiles[axis];
    }
  }

  // Numbers of scratch memory: the pixels, and of a gradient which tap each window selects.
  HANDGRAD_MATH int64_t patch() const { return int64_t{reached[0]} * reached[1]; }
  HANDGRAD_MATH int64_t scratch() const { return patch() + (pass == kGradient ? int64_t{around[0]} * around[1] : 0); }
};

// ---- the work of a block --------------------------------------------------------------------------------------------

template <class C>
struct Tile {
  const DeviceCall<C>& call;
  C *pixels, *selected;
  int64_t n, c, origin[2];

  // Channels are next to each other: of images that have them innermost, neighbours in time share what is cached.
  __device__ Tile(const DeviceCall<C>& call, C* scratch, int64_t item)
      : call(call), pixels(scratch), selected(scratch + call.patch()) {
    int64_t rest = item / call.geometry.channels;
    c = item - rest * call.geometry.channels;
    for (int axis = 1; axis >= 0; --axis) {
      const int64_t next = rest / call.tiles[axis];
      origin[axis] = (rest - next * call.tiles[axis]) * call.tile[axis];
      rest = next;
    }
    n = rest;
  }

  __device__ __forceinline__ bool inside(int64_t y, int64_t x) const {
    return y >= 0 && y < call.geometry.size[0] && x >= 0 && x < call.geometry.size[1];
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

  __device__ void load_pixels() const {
    for_each(call.reached[0], call.reached[1], [&](int32_t row, int32_t column, uint32_t i) {
      const Geometry& geometry = call.geometry;
      const int64_t y = border_index(geometry.border, origin[0] + row - call.pad[0], geometry.size[0]);
      const int64_t x = border_index(geometry.border, origin[1] + column - call.pad[1], geometry.size[1]);
      pixels[i] = y >= 0 && x >= 0 ? read(call.input.at(n, c, y, x)) : C(0);
    });
  }

  // ---- medians

  // body(pixel, its index, its tap) for the taps of the window around pixel i of the patch, in their order.
  template <class Body>
  __device__ __forceinline__ void for_taps(int32_t i, const Body& body) const {
    const int32_t rows = call.geometry.radius[0], columns = call.geometry.radius[1];
    int32_t tap = 0;
#pragma unroll 1
    for (int32_t down = -rows; down <= rows; ++down) {
#pragma unroll 1
      for (int32_t right = -columns; right <= columns; ++right, ++tap) {
        const int32_t other = i + down * call.reached[1] + right;
        body(pixels[other], down, right, tap);
      }
    }
  }
  template <int Side>
  __device__ __forceinline__ C by_network(int32_t i) const {
    C numbers[Side * Side];
    const C* const corner = pixels + i - (Side / 2) * (call.reached[1] + 1);
#pragma unroll
    for (int j = 0; j < Side; ++j) {
#pragma unroll
      for (int k = 0; k < Side; ++k) numbers[j * Side + k] = corner[j * call.reached[1] + k];
    }
    return middle_of<Side * Side>(numbers);
  }
  // The largest key that at most half of the taps are below of, bit by bit from the highest.
  __device__ __forceinline__ C by_bits(int32_t i) const {
    using K = Key<C>;
    const int32_t half = call.geometry.taps() / 2;
    K found = std::numeric_limits<K>::min();
#pragma unroll 1
    for (int32_t bit = 8 * static_cast<int32_t>(sizeof(K)) - 1; bit >= 0; --bit) {
      const K bound = with_bit(found, bit);
      int32_t below = 0;
      for_taps(i, [&](C pixel, int32_t, int32_t, int32_t) { below += key_of(pixel) < bound ? 1 : 0; });
      if (below <= half) found = bound;
    }
    return number_of<C>(found);
  }
  __device__ C median(int32_t i) const {
    const int32_t rows = call.geometry.radius[0];
    const bool square = rows == call.geometry.radius[1];
    C result = square && rows == 1 ? by_network<3>(i) : square && rows == 2 ? by_network<5>(i) : by_bits(i);
    bool is_spoilt = false;
    for_taps(i, [&](C pixel, int32_t, int32_t, int32_t) {
      if (pixel != pixel && !is_spoilt) result = pixel, is_spoilt = true;
    });
    return result;
  }
  // body(down, right, tap) for the pixel that the window selects, the first of those that are equal.
  template <class Body>
  __device__ __forceinline__ void select(int32_t i, const Body& body) const {
    const C middle = median(i);
    bool done = false;
    for_taps(i, [&](C pixel, int32_t down, int32_t right, int32_t tap) {
      if (done || !(pixel == middle || pixel != pixel)) return;
      done = true;
      body(down, right, tap);
    });
  }

  // ---- passes

  // body(y, x, index in the patch) for the pixels of the tile.
  template <class Body>
  __device__ __forceinline__ void for_pixels(const Body& body) const {
    for_each(call.tile[0], call.tile[1], [&](int32_t row, int32_t column, uint32_t) {
      const int64_t y = origin[0] + row, x = origin[1] + column;
      if (inside(y, x)) body(y, x, (row + call.pad[0]) * call.reached[1] + column + call.pad[1]);
    });
  }
  __device__ void make_values() const {
    for_pixels([&](int64_t y, int64_t x, int32_t i) { write(call.output.at(n, c, y, x), median(i)); });
  }
  __device__ void make_selected() const {
    const Geometry& geometry = call.geometry;
    for_pixels([&](int64_t y, int64_t x, int32_t i) {
      C value = 0;
      select(i, [&](int32_t down, int32_t right, int32_t) {
        const int64_t row = border_index(geometry.border, y + down, geometry.size[0]);
        const int64_t column = border_index(geometry.border, x + right, geometry.size[1]);
        if (row >= 0 && column >= 0) value = read(call.source.at(n, c, row, column));
      });
      write(call.output.at(n, c, y, x), value);
    });
  }

  // Which tap each window around the tile selects; -1 where there is no window.
  __device__ void number_windows() const {
    const Geometry& geometry = call.geometry;
    for_each(call.around[0], call.around[1], [&](int32_t row, int32_t column, uint32_t index) {
      const int64_t y = origin[0] + row - geometry.radius[0], x = origin[1] + column - geometry.radius[1];
      C number = -1;
      if (geometry.border == kCircular || inside(y, x)) {
        const int32_t i = (row + geometry.radius[0]) * call.reached[1] + column + geometry.radius[1];
        select(i, [&](int32_t, int32_t, int32_t tap) { number = static_cast<C>(tap); });
      }
      selected[index] = number;
    });
  }
  // What a pixel gets where it is seen at (v, u), at `index` of the windows around the tile.
  __device__ __forceinline__ C given(int64_t v, int64_t u, int32_t index) const {
    const Geometry& geometry = call.geometry;
    const int32_t rows = geometry.radius[0], columns = geometry.radius[1];
    C sum = 0;
    int32_t tap = geometry.taps() - 1;
#pragma unroll 1
    for (int32_t down = -rows; down <= rows; ++down) {
#pragma unroll 1
      for (int32_t right = -columns; right <= columns; ++right, --tap) {
        if (geometry.border != kCircular && !inside(v + down, u + right)) continue;
        if (selected[index + down * call.around[1] + right] != static_cast<C>(tap)) continue;
        const int64_t y = border_index(geometry.border, v + down, geometry.size[0]);
        const int64_t x = border_index(geometry.border, u + right, geometry.size[1]);
        sum += read(call.source.at(n, c, y, x));
      }
    }
    return sum;
  }
  __device__ void make_gradient() const {
    const Geometry& geometry = call.geometry;
    for_each(call.tile[0], call.tile[1], [&](int32_t row, int32_t column, uint32_t) {
      const int64_t y = origin[0] + row, x = origin[1] + column;
      if (!inside(y, x)) return;
      const int32_t index = (row + geometry.radius[0]) * call.around[1] + column + geometry.radius[1];
      const Sights rows(geometry.border, y, geometry.size[0], geometry.radius[0]);
      const Sights columns(geometry.border, x, geometry.size[1], geometry.radius[1]);
      C sum = 0;
#pragma unroll 1
      for (int where = 0; where < 9; ++where) {
#pragma unroll 1
        for (int64_t v = rows.first(where / 3); v < rows.last(where / 3); ++v) {
#pragma unroll 1
          for (int64_t u = columns.first(where % 3); u < columns.last(where % 3); ++u) {
            sum += given(v, u, index + static_cast<int32_t>(v - y) * call.around[1] + static_cast<int32_t>(u - x));
          }
        }
      }
      write(call.output.at(n, c, y, x), sum);
    });
  }
};

// ---- the kernel -----------------------------------------------------------------------------------------------------

// A block for each item from the first on.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    median_kernel(const DeviceCall<C> call, int64_t first, C* global) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const Tile<C> tile(call, global ? global + blockIdx.x * call.scratch() : shared, first + blockIdx.x);
  tile.load_pixels();
  __syncthreads();
  if (call.pass == kValues) return tile.make_values();
  if (call.pass == kSelected) return tile.make_selected();
  tile.number_windows();
  __syncthreads();
  tile.make_gradient();
}

}  // namespace handgrad::median_filter
