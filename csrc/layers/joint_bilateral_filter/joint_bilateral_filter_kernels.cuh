// The kernels of joint_bilateral_filter on CUDA devices.
//
// A block takes a tile of an image: the pixels that its windows reach, with what is behind the border, are loaded into
// shared memory; of windows too large for that, into a piece of global memory that belongs to the block, and tiles are
// launched some at a time. Backward, what the windows around the tile give is computed beside it, from twice the reach.
//
// In order of appearance: DeviceCall; the work of a block: loading, weights, values, gains, gradients; the kernels.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"
#include "joint_bilateral_filter_host.h"

namespace handgrad::joint_bilateral_filter {

// Few enough for a thread of the gradients to have its dual numbers in registers.
inline constexpr int kThreads = 128;
// Channels whose sums a thread has in registers: of more, weights are computed again.
template <class N>
inline constexpr int kGroup = sizeof(N) > sizeof(double) ? 2 : 4;

template <class N>
inline constexpr bool kIsDual = !std::is_same_v<N, Plain<N>>;

// ---- a call ---------------------------------------------------------------------------------------------------------

// Axis 0 is that of rows.
template <class N>
struct DeviceCall {
  using C = Plain<N>;

  Geometry geometry;
  SigmaTable table;
  StoredView<const C, 4> input, guidance, v_input, v_guidance, grad_output;
  StoredView<C, 4> output, grad_input, grad_guidance;
  bool wants_sigma, is_backward;
  int32_t tile[2], pad[2], reached[2], given[2];
  int64_t tiles[2], items;

  DeviceCall(const Geometry& geometry, const SigmaTable& table, const Operands& operands, int32_t height, int32_t width)
      : geometry(geometry), table(table), tile{height, width} {
    const auto source = [](const Tensor* tensor) {
      return tensor ? stored_view<C, 4>(*tensor) : StoredView<const C, 4>{};
    };
    const auto target = [](const Tensor* tensor) {
      return tensor ? mutable_stored_view<C, 4>(*tensor) : StoredView<C, 4>{};
    };
    input = source(operands.input), guidance = source(operands.guidance);
    v_input = source(operands.v_input), v_guidance = source(operands.v_guidance);
    grad_output = source(operands.grad_output), output = target(operands.output);
    grad_input = target(operands.grad_input), grad_guidance = target(operands.grad_guidance);
    wants_sigma = operands.grad_sigma, is_backward = !output;
    items = geometry.batch;
    for (int axis = 0; axis < 2; ++axis) {
      tiles[axis] = (geometry.size[axis] + tile[axis] - 1) / tile[axis];
      // All of about the same size.
      tile[axis] = static_cast<int32_t>((geometry.size[axis] + tiles[axis] - 1) / tiles[axis]);
      pad[axis] = (is_backward ? 2 : 1) * geometry.radius[axis];
      reached[axis] = tile[axis] + 2 * pad[axis];
      given[axis] = tile[axis] + 2 * geometry.radius[axis];
      items *= tiles[axis];
    }
  }

  // Numbers of scratch memory: the pixels of both images, and what windows give; then the tangents of all.
  HANDGRAD_MATH int64_t patch() const { return int64_t{reached[0]} * reached[1]; }
  HANDGRAD_MATH int64_t gift() const { return is_backward ? int64_t{given[0]} * given[1] : 0; }
  HANDGRAD_MATH int64_t images() const { return geometry.channels + (geometry.own_guide ? 0 : geometry.guides); }
  HANDGRAD_MATH int64_t apart() const { return images() * patch() + (geometry.channels + 1) * gift(); }
  HANDGRAD_MATH int64_t scratch() const { return (kIsDual<N> ? 2 : 1) * apart(); }
};

// ---- the work of a block --------------------------------------------------------------------------------------------

template <class N>
struct Tile {
  using C = Plain<N>;

  const DeviceCall<N>& call;
  C *pixels, *colors, *gains, *means;
  Scales<N> scales;
  int64_t n, origin[2];

  __device__ Tile(const DeviceCall<N>& call, C* scratch, int64_t item)
      : call(call),
        pixels(scratch),
        colors(call.geometry.own_guide ? scratch : scratch + call.geometry.channels * call.patch()),
        gains(scratch + call.images() * call.patch()),
        means(gains + call.geometry.channels * call.gift()) {
    const int64_t rest = item / call.tiles[1];
    origin[1] = (item - rest * call.tiles[1]) * call.tile[1];
    n = rest / call.tiles[0];
    origin[0] = (rest - n * call.tiles[0]) * call.tile[0];
    scales = call.table.template scales<N>(n);
  }

  __device__ __forceinline__ N at(const C* from) const {
    if constexpr (kIsDual<N>) {
      return N(*from, from[call.apart()]);
    } else {
      return *from;
    }
  }
  __device__ __forceinline__ void set(C* to, N value) const {
    *to = value_of(value);
    if constexpr (kIsDual<N>) to[call.apart()] = value.tangent;
  }
  // A result, or its tangent.
  __device__ __forceinline__ static C result_of(N value) {
    if constexpr (kIsDual<N>) {
      return value.tangent;
    } else {
      return value;
    }
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

  // ---- loading

  __device__ void load(const StoredView<const C, 4>& from, int64_t channels, C* to) const {
    for_each(call.reached[0], call.reached[1], [&](int32_t row, int32_t column, uint32_t i) {
      const Geometry& geometry = call.geometry;
      const int64_t y = border_index(geometry.border, origin[0] + row - call.pad[0], geometry.size[0]);
      const int64_t x = border_index(geometry.border, origin[1] + column - call.pad[1], geometry.size[1]);
      const bool seen = from && y >= 0 && x >= 0;
#pragma unroll 1
      for (int64_t c = 0; c < channels; ++c) to[c * call.patch() + i] = seen ? read(from.at(n, c, y, x)) : C(0);
    });
  }
  __device__ void load_images() const {
    load(call.input, call.geometry.channels, pixels);
    if constexpr (kIsDual<N>) load(call.v_input, call.geometry.channels, pixels + call.apart());
    if (call.geometry.own_guide) return;
    load(call.guidance, call.geometry.guides, colors);
    if constexpr (kIsDual<N>) load(call.v_guidance, call.geometry.guides, colors + call.apart());
  }

  // ---- weights

  // The sum of distances from pixel i of the patch to pixel `other`.
  __device__ __forceinline__ N distance(int32_t i, int32_t other) const {
    N sum(0);
#pragma unroll 1
    for (int64_t k = 0; k < call.geometry.guides; ++k) {
      const C* const channel = colors + k * call.patch();
      const N difference = at(channel + other) - at(channel + i);
      sum = sum + (call.geometry.l1 ? contribution<true>(difference) : contribution<false>(difference));
    }
    return sum;
  }
  __device__ __forceinline__ N square(N sum) const {
    return call.geometry.l1 ? squared<true>(sum) : squared<false>(sum);
  }
  __device__ __forceinline__ N weight(N sum, int32_t down, int32_t right) const {
    return weight_of(scales.color * square(sum) + scales.space(down, right));
  }
  // body(down, right) for all taps of a window.
  template <class Body>
  __device__ __forceinline__ void for_taps(const Body& body) const {
    const int32_t rows = call.geometry.radius[0], columns = call.geometry.radius[1];
#pragma unroll 1
    for (int32_t down = -rows; down <= rows; ++down) {
#pragma unroll 1
      for (int32_t right = -columns; right <= columns; ++right) body(down, right);
    }
  }

  // ---- values

  // What pixel i of the patch is drawn by, for channels from c on, over the denominator, which is returned.
  __device__ __forceinline__ N pull(int32_t i, int64_t c, N (&pulls)[kGroup<N>]) const {
    N total(1);
#pragma unroll
    for (int k = 0; k < kGroup<N>; ++k) pulls[k] = N(0);
    for_taps([&](int32_t down, int32_t right) {
      if (down == 0 && right == 0) return;
      const int32_t other = i + down * call.reached[1] + right;
      const N w = weight(distance(i, other), down, right);
      total = total + w;
#pragma unroll
      for (int k = 0; k < kGroup<N>; ++k) {
        if (c + k >= call.geometry.channels) break;
        const C* const channel = pixels + (c + k) * call.patch();
        pulls[k] = pulls[k] + w * (at(channel + other) - at(channel + i));
      }
    });
#pragma unroll
    for (int k = 0; k < kGroup<N>; ++k) pulls[k] = pulls[k] / total;
    return total;
  }

  __device__ void make_values() const {
    for_each(call.tile[0], call.tile[1], [&](int32_t row, int32_t column, uint32_t) {
      const int64_t y = origin[0] + row, x = origin[1] + column;
      if (!inside(y, x)) return;
      const int32_t i = (row + call.pad[0]) * call.reached[1] + column + call.pad[1];
#pragma unroll 1
      for (int64_t c = 0; c < call.geometry.channels; c += kGroup<N>) {
        N pulls[kGroup<N>];
        pull(i, c, pulls);
#pragma unroll
        for (int k = 0; k < kGroup<N>; ++k) {
          if (c + k >= call.geometry.channels) break;
          const N value = at(pixels + (c + k) * call.patch() + i) + pulls[k];
          write(call.output.at(n, c + k, y, x), result_of(value));
        }
      }
    });
  }

  // ---- gains

  // Of each pixel that windows of the tile reach, what its own window gives: nothing where there is none.
  __device__ void make_gains() const {
    const Geometry& geometry = call.geometry;
    for_each(call.given[0], call.given[1], [&](int32_t row, int32_t column, uint32_t index) {
      int64_t y = origin[0] + row - geometry.radius[0], x = origin[1] + column - geometry.radius[1];
      const bool has_window = geometry.border == kCircular || inside(y, x);
      y = border_index(geometry.border, y, geometry.size[0]), x = border_index(geometry.border, x, geometry.size[1]);
      const int32_t i = (row + geometry.radius[0]) * call.reached[1] + column + geometry.radius[1];
      N mean(0);
#pragma unroll 1
      for (int64_t c = 0; c < geometry.channels; c += kGroup<N>) {
        N pulls[kGroup<N>], total(1);
        if (has_window) total = pull(i, c, pulls);
#pragma unroll
        for (int k = 0; k < kGroup<N>; ++k) {
          if (c + k >= geometry.channels) break;
          N gain(0);
          if (has_window) {
            gain = read(call.grad_output.at(n, c + k, y, x)) / total;
            mean = mean + gain * pulls[k];
          }
          set(gains + (c + k) * call.gift() + index, gain);
        }
      }
      set(means + index, mean);
    });
  }

  // ---- gradients

  // Sums of a thread over the taps of its pixel.
  struct Sums {
    N input[kGroup<N>], guidance[kGroup<N>], scales[3];
  };

  // The pixel at i of the patch and at `given` of the gains, where it is seen, beside the pixel one tap away; `own` is
  // 1 where it is itself, and 0 behind the border, where it has no window.
  __device__ __forceinline__ void add_pair(int32_t i, int32_t given, int32_t other, int32_t other_given, C own,
                                           int32_t down, int32_t right, int64_t c, Sums& sums) const {
    const Geometry& geometry = call.geometry;
    const N sum = distance(i, other), w = weight(sum, down, right);
    if (call.grad_input) {
#pragma unroll
      for (int k = 0; k < kGroup<N>; ++k) {
        if (c + k >= geometry.channels) break;
        sums.input[k] = sums.input[k] + w * at(gains + (c + k) * call.gift() + other_given);
      }
    }
    N mine = -(own * at(means + given)), theirs = -at(means + other_given);
#pragma unroll 1
    for (int64_t k = 0; k < geometry.channels; ++k) {
      const C *const channel = pixels + k * call.patch(), *const gain = gains + k * call.gift();
      const N difference = at(channel + other) - at(channel + i);
      mine = mine + own * at(gain + given) * difference;
      theirs = theirs - at(gain + other_given) * difference;
    }
    const N effect = w * (mine + theirs);
#pragma unroll
    for (int k = 0; k < kGroup<N>; ++k) {
      if (c + k >= geometry.guides) break;
      const C* const channel = colors + (c + k) * call.patch();
      const N difference = at(channel + i) - at(channel + other);
      const N slope = geometry.l1 ? half_slope<true>(sum, difference) : half_slope<false>(sum, difference);
      sums.guidance[k] = sums.guidance[k] + effect * slope;
    }
    const N of_scales = w * mine;
    sums.scales[0] = sums.scales[0] + of_scales * square(sum);
    sums.scales[1] = sums.scales[1] + of_scales * static_cast<C>(down * down);
    sums.scales[2] = sums.scales[2] + of_scales * static_cast<C>(right * right);
  }

  __device__ __forceinline__ void gather(int32_t row, int32_t column, int64_t c, Sums& sums) const {
    const Geometry& geometry = call.geometry;
    const int64_t y = origin[0] + row, x = origin[1] + column;
    const int32_t i = (row + call.pad[0]) * call.reached[1] + column + call.pad[1];
    const int32_t given = (row + geometry.radius[0]) * call.given[1] + column + geometry.radius[1];
    const Sights rows(geometry.border, y, geometry.size[0], geometry.radius[0]);
    const Sights columns(geometry.border, x, geometry.size[1], geometry.radius[1]);
#pragma unroll 1
    for (int where = 0; where < 9; ++where) {
      const int a = where / 3, b = where % 3;
#pragma unroll 1
      for (int64_t v = rows.first(a); v < rows.last(a); ++v) {
#pragma unroll 1
        for (int64_t u = columns.first(b); u < columns.last(b); ++u) {
          for_taps([&](int32_t down, int32_t right) {
            if (where > 0 && !inside(v + down, u + right)) return;
            const int32_t below = static_cast<int32_t>(v - y) + down, beside = static_cast<int32_t>(u - x) + right;
            add_pair(i, given, i + below * call.reached[1] + beside, given + below * call.given[1] + beside,
                     where == 0 ? C(1) : C(0), down, right, c, sums);
          });
        }
      }
    }
  }

  // Writes the gradients of the tile's pixels; `scale_sums` gets what this thread adds to those of the scales.
  __device__ void make_gradients(double (&scale_sums)[6]) const {
    const Geometry& geometry = call.geometry;
    const N factor = C(-2) * scales.color;
    const int64_t most = geometry.channels > geometry.guides ? geometry.channels : geometry.guides;
    for_each(call.tile[0], call.tile[1], [&](int32_t row, int32_t column, uint32_t) {
      const int64_t y = origin[0] + row, x = origin[1] + column;
      if (!inside(y, x)) return;
#pragma unroll 1
      for (int64_t c = 0; c < most; c += kGroup<N>) {
        Sums sums = {};
        gather(row, column, c, sums);
#pragma unroll
        for (int k = 0; k < kGroup<N>; ++k) {
          const N of_guidance = factor * sums.guidance[k];
          if (c + k < geometry.channels && call.grad_input) {
            const N of_input = geometry.own_guide ? sums.input[k] + of_guidance : sums.input[k];
            write(call.grad_input.at(n, c + k, y, x), result_of(of_input));
          }
          if (c + k < geometry.guides && call.grad_guidance) {
            write(call.grad_guidance.at(n, c + k, y, x), result_of(of_guidance));
          }
        }
        if (c > 0) continue;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
          scale_sums[k] -= static_cast<double>(value_of(sums.scales[k]));
          if constexpr (kIsDual<N>) scale_sums[3 + k] -= static_cast<double>(sums.scales[k].tangent);
        }
      }
    });
  }
};

// ---- kernels --------------------------------------------------------------------------------------------------------

// A block for each item from the first on.
template <class N>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    value_kernel(const DeviceCall<N> call, int64_t first, Plain<N>* global) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  HANDGRAD_DYNAMIC_SHARED(Plain<N>, shared);
  const Tile<N> tile(call, global ? global + blockIdx.x * call.scratch() : shared, first + blockIdx.x);
  tile.load_images();
  __syncthreads();
  tile.make_values();
}

template <class N>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    gradient_kernel(const DeviceCall<N> call, int64_t first, Plain<N>* global, double* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  HANDGRAD_DYNAMIC_SHARED(Plain<N>, shared);
  const int64_t item = first + blockIdx.x;
  const Tile<N> tile(call, global ? global + blockIdx.x * call.scratch() : shared, item);
  tile.load_images();
  __syncthreads();
  tile.make_gains();
  __syncthreads();
  double scale_sums[6] = {};
  tile.make_gradients(scale_sums);
  if (!call.wants_sigma) return;
#pragma unroll
  for (int k = 0; k < 6; ++k) {
    const double total = block_sum<kThreads>(scale_sums[k]);
    if (threadIdx.x == 0) store(sums + 6 * item + k, total);
    __syncthreads();
  }
}

// A thread for each sigma adds up the tiles of its image in order.
template <class N>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sigma_kernel(const double* sums, int64_t tiles, int64_t images, SigmaTable table, View<double, 2> results) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= 3 * images) return;
  const int64_t n = index / 3;
  const int k = static_cast<int>(index % 3);
  double total = 0, along = 0;
#pragma unroll 1
  for (int64_t tile = n * tiles; tile < (n + 1) * tiles; ++tile) {
    total += load(sums + 6 * tile + k), along += load(sums + 6 * tile + 3 + k);
  }
  const double sigma = table.of(n, k);
  store(results.at(n, k),
        kIsDual<N> ? grad_of_sigma_along(total, along, sigma, table.along(n, k)) : grad_of_sigma(total, sigma));
}

}  // namespace handgrad::joint_bilateral_filter
