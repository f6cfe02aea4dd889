// The kernels of a reassembly of features on CUDA devices: one for outputs, one for the gradient of the features, one
// for that of the weights.
//
// Lanes have neighbouring pixels, warps different channels (outputs, features) or rows of taps (weights). What they
// read is in shared memory: a pixel is loaded once for all channels' taps of a row, a weight once for all channels of a
// block. Each thread has a small matrix of sums in registers, so that a number from shared memory serves several.
//
// In order of appearance: Place, which part a block has; fill, the copies; store_sums; the outputs; the gradient of the
// features; the gradient of the weights.
#pragma once

#include "abi/view.h"
#include "carafe_host.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"

namespace handgrad::carafe {

// Warps of a block at most, and channels of each thread: so many channels of a block.
inline constexpr int kMostWarps = 8, kThreadChannels = 4, kBlockChannels = kMostWarps * kThreadChannels;
// Taps of a row, and outputs of a pixel, that a thread has at a time.
inline constexpr int kTaps = 5, kOutputs = 4;
// Columns that 32 lanes see through so many taps; rows of shared memory are one longer, so that neither the lanes of
// columns nor those of channels meet in a bank.
inline constexpr int kSeen = kWarpSize + kTaps - 1, kRow = kSeen + 1;

// ---- Place ----------------------------------------------------------------------------------------------------------

// How the channels and the columns of an image are cut: pieces of a group's channels, tiles of columns.
struct Plan {
  int32_t warps;
  int64_t across, pieces;
};

// Blocks are (image, row, tile of columns, part, group, piece of its channels), which is innermost.
struct Place {
  int64_t n, row, x, part, group, channel, end;  // channels [channel, end)

  __device__ Place(const Geometry& geometry, const Plan& plan, int64_t rows, int64_t parts) {
    int64_t block = blockIdx.x;
    const auto next = [&](int64_t count) {
      const int64_t outer = block / count, index = block - outer * count;
      block = outer;
      return index;
    };
    const int64_t piece = next(plan.pieces);
    group = next(geometry.groups);
    part = next(parts);
    x = next(plan.across) * kWarpSize;
    row = next(rows);
    n = block;
    const int64_t first = group * geometry.group_channels();
    channel = first + piece * kBlockChannels, end = first + geometry.group_channels();
  }
};

__device__ __forceinline__ int32_t lane_of_thread() { return static_cast<int32_t>(threadIdx.x) % kWarpSize; }
__device__ __forceinline__ int32_t warp_of_thread() { return static_cast<int32_t>(threadIdx.x) / kWarpSize; }

// ---- fill -----------------------------------------------------------------------------------------------------------

// Columns of a row: of pixels, or of the outputs of pixels that are `step` apart.
struct Row {
  int64_t n, y, first, width, step, offset;

  __device__ bool has(int32_t column) const { return first + column >= 0 && first + column < width; }
  __device__ int64_t x(int32_t column) const { return (first + column) * step + offset; }
};

// A copy of Channels (a power of two) by Columns elements, rows kRow apart, by threads `rank` of `team`; zeros where
// there are none. In the order of memory, whether that is along columns or along channels.
template <int Channels, int Columns, class T>
__device__ void fill(const View<const T, 4>& image, const Row& row, int64_t channel, int64_t end, Compute<T>* to,
                     int32_t rank, int32_t team) {
  const bool innermost = image.strides[1] < image.strides[3];
#pragma unroll 2
  for (int32_t k = rank; k < Channels * Columns; k += team) {
    const int32_t c = innermost ? k % Channels : k / Columns, column = innermost ? k / Channels : k % Columns;
    const bool is_there = row.has(column) && channel + c < end;
    to[c * kRow + column] =
        is_there ? widen(load_constant(image.at(row.n, channel + c, row.y, row.x(column)))) : Compute<T>(0);
  }
}

// The weight that output `output` of pixel (y, x) has of a tap; zero beyond the image, or of what there is not.
template <class T>
__device__ __forceinline__ Compute<T> weight_of(const Geometry& geometry, const View<const T, 4>& masks, int64_t n,
                                                int64_t group, int64_t i, int64_t j, int64_t output, int64_t y,
                                                int64_t x) {
  const int64_t seen = x - geometry.radius() + j;
  const bool is_there = j < geometry.kernel && output < geometry.shares() && x >= 0 && x < geometry.width &&
                        seen >= 0 && seen < geometry.width;
  if (!is_there) return Compute<T>(0);
  const int64_t a = output / geometry.scale, b = output - a * geometry.scale;
  return widen(load_constant(
      masks.at(n, group * geometry.taps() + i * geometry.kernel + j, y * geometry.scale + a, x * geometry.scale + b)));
}

// ---- store_sums -----------------------------------------------------------------------------------------------------

// An element's row and column; `is_there` says whether there is one.
struct Position {
  bool is_there;
  int64_t y, x;
};

// The sums of all threads: along columns as they are, along channels by way of shared memory. position(k, column) says
// where sum k of a column is.
template <int Count, class T, class At>
__device__ __forceinline__ void store_sums(const Plan& plan, const Place& place,
                                           const Compute<T> (&sums)[Count][kThreadChannels], Compute<T>* shared,
                                           const View<T, 4>& result, const At& position) {
  const int32_t warp = warp_of_thread(), lane = lane_of_thread();
  const bool innermost = result.strides[1] < result.strides[3];
  const auto put = [&](int k, int32_t c, int32_t column, Compute<T> value) {
    const Position at = position(k, place.x + column);
    if (!at.is_there || place.channel + c >= place.end) return;
    store(result.at(place.n, place.channel + c, at.y, at.x), narrow<T>(value));
  };
#pragma unroll
  for (int k = 0; k < Count; ++k) {
    if (!innermost) {
#pragma unroll
      for (int c = 0; c < kThreadChannels; ++c) put(k, warp * kThreadChannels + c, lane, sums[k][c]);
      continue;
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kThreadChannels; ++c) shared[(warp * kThreadChannels + c) * kRow + lane] = sums[k][c];
    __syncthreads();
    if (lane >= plan.warps * kThreadChannels) continue;
#pragma unroll 1
    for (int32_t column = warp; column < kWarpSize; column += plan.warps) {
      put(k, lane, column, shared[lane * kRow + column]);
    }
  }
}

// ---- the outputs ----------------------------------------------------------------------------------------------------

// A part of a place is kOutputs outputs of its pixels. A second pair of features and weights adds to the first.
template <class T>
__global__ void __launch_bounds__(kMostWarps* kWarpSize, kMinBlocks)
    carafe_kernel(Geometry geometry, Plan plan, int64_t parts, View<const T, 4> features, View<const T, 4> masks,
                  View<const T, 4> second_features, View<const T, 4> second_masks, View<T, 4> output) {
  HANDGRAD_LAUNCH_BOUNDS(kMostWarps * kWarpSize);
  using C = Compute<T>;
  __shared__ C pixels[kBlockChannels * kRow];
  __shared__ C weights[kTaps * kOutputs][kWarpSize];
  const int32_t warp = warp_of_thread(), lane = lane_of_thread(), threads = static_cast<int32_t>(blockDim.x);
  const Place place(geometry, plan, geometry.height, parts);
  const int64_t first_output = place.part * kOutputs;
  const C* const own = pixels + warp * kThreadChannels * kRow + lane;
  const Taps down = geometry.within(place.row, 0, geometry.height);

  C sums[kOutputs][kThreadChannels] = {};
  const auto add = [&](const View<const T, 4>& from, const View<const T, 4>& by, int64_t i, int64_t j) {
    __syncthreads();
    const int64_t y = place.row - geometry.radius() + i, x = place.x - geometry.radius() + j;
    fill<kBlockChannels, kSeen>(from, Row{place.n, y, x, geometry.width, 1, 0}, place.channel, place.end, pixels,
                                static_cast<int32_t>(threadIdx.x), threads);
#pragma unroll 1
    for (int32_t k = warp; k < kTaps * kOutputs; k += plan.warps) {
      weights[k][lane] = weight_of(geometry, by, place.n, place.group, i, j + k / kOutputs, first_output + k % kOutputs,
                                   place.row, place.x + lane);
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      if (j + t >= geometry.kernel) break;
      C seen[kThreadChannels];
#pragma unroll
      for (int c = 0; c < kThreadChannels; ++c) seen[c] = own[c * kRow + t];
#pragma unroll
      for (int k = 0; k < kOutputs; ++k) {
        const C weight = weights[t * kOutputs + k][lane];
#pragma unroll
        for (int c = 0; c < kThreadChannels; ++c) sums[k][c] += weight * seen[c];
      }
    }
  };
#pragma unroll 1
  for (int64_t i = down.begin; i < down.end; ++i) {
#pragma unroll 1
    for (int64_t j = 0; j < geometry.kernel; j += kTaps) {
      add(features, masks, i, j);
      if (second_features) add(second_features, second_masks, i, j);
    }
  }
  store_sums<kOutputs>(plan, place, sums, pixels, output, [&](int k, int64_t x) {
    const int64_t k_th = first_output + k, a = k_th / geometry.scale, b = k_th - a * geometry.scale;
    return Position{k_th < geometry.shares() && x < geometry.width, place.row * geometry.scale + a,
                    x * geometry.scale + b};
  });
}

// ---- the gradient of the features -----------------------------------------------------------------------------------

// Rows of it that a thread has, and outputs of a pixel at a time.
inline constexpr int kRows = 4, kSpread = 2;

// A place's row is of tiles of kRows rows.
template <class T>
__global__ void __launch_bounds__(kMostWarps* kWarpSize, kMinBlocks)
    carafe_features_kernel(Geometry geometry, Plan plan, int64_t down, View<const T, 4> grad, View<const T, 4> masks,
                           View<T, 4> result) {
  HANDGRAD_LAUNCH_BOUNDS(kMostWarps * kWarpSize);
  using C = Compute<T>;
  __shared__ C grads[kSpread][kBlockChannels * kRow];
  __shared__ C weights[kRows * kTaps * kSpread][kWarpSize];
  const int32_t warp = warp_of_thread(), lane = lane_of_thread(), threads = static_cast<int32_t>(blockDim.x);
  const Place place(geometry, plan, down, 1);
  const int64_t top = place.row * kRows, radius = geometry.radius();

  C sums[kRows][kThreadChannels] = {};
  // What the outputs [output, output + kSpread) of row y of pixels, by taps [j, j + kTaps), have for the tile.
  const auto add = [&](int64_t y, int64_t output, int64_t j) {
    __syncthreads();
    const int64_t x = place.x + radius - j - (kTaps - 1);
#pragma unroll
    for (int k = 0; k < kSpread; ++k) {
      const int64_t a = (output + k) / geometry.scale, b = output + k - a * geometry.scale;
      const int64_t end = output + k < geometry.shares() ? place.end : 0;
      fill<kBlockChannels, kSeen>(grad, Row{place.n, y * geometry.scale + a, x, geometry.width, geometry.scale, b},
                                  place.channel, end, grads[k], static_cast<int32_t>(threadIdx.x), threads);
    }
#pragma unroll 1
    for (int32_t k = warp; k < kRows * kTaps * kSpread; k += plan.warps) {
      const int32_t r = k / (kTaps * kSpread), t = k / kSpread % kTaps;
      const int64_t i = top + r - y + radius;
      const bool reaches = i >= 0 && i < geometry.kernel && place.x + lane < geometry.width;
      weights[k][lane] = reaches ? weight_of(geometry, masks, place.n, place.group, i, j + t, output + k % kSpread, y,
                                             place.x + lane + radius - j - t)
                                 : C(0);
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      if (j + t >= geometry.kernel) break;
#pragma unroll
      for (int k = 0; k < kSpread; ++k) {
        const C* const own = grads[k] + warp * kThreadChannels * kRow + lane + (kTaps - 1) - t;
        C seen[kThreadChannels];
#pragma unroll
        for (int c = 0; c < kThreadChannels; ++c) seen[c] = own[c * kRow];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const C weight = weights[(r * kTaps + t) * kSpread + k][lane];
#pragma unroll
          for (int c = 0; c < kThreadChannels; ++c) sums[r][c] += weight * seen[c];
        }
      }
    }
  };
  const int64_t first = top - radius < 0 ? 0 : top - radius;
  const int64_t last = top + kRows + radius < geometry.height ? top + kRows + radius : geometry.height;
#pragma unroll 1
  for (int64_t y = first; y < last; ++y) {
#pragma unroll 1
    for (int64_t output = 0; output < geometry.shares(); output += kSpread) {
#pragma unroll 1
      for (int64_t j = 0; j < geometry.kernel; j += kTaps) add(y, output, j);
    }
  }
  store_sums<kRows>(plan, place, sums, grads[0], result, [&](int r, int64_t x) {
    return Position{top + r < geometry.height && x < geometry.width, top + r, x};
  });
}

// ---- the gradient of the weights ------------------------------------------------------------------------------------

// Channels at a time.
inline constexpr int kSummed = 8;

// How taps and outputs are cut: groups of rows of taps, one for each warp, of taps of a row, and of outputs.
struct MaskPlan {
  int32_t warps;
  int64_t across, down, taps, outputs;
};

// Each warp has a row of taps of 32 pixels. A place's piece is of none of its channels: a block adds all of them.
template <class T>
__global__ void __launch_bounds__(kMostWarps* kWarpSize, kMinBlocks)
    carafe_masks_kernel(Geometry geometry, MaskPlan plan, View<const T, 4> grad, View<const T, 4> features,
                        View<T, 4> result) {
  HANDGRAD_LAUNCH_BOUNDS(kMostWarps * kWarpSize);
  using C = Compute<T>;
  __shared__ C grads[kOutputs][kSummed * kRow];
  __shared__ C pixels[kMostWarps][kSummed * kRow];
  const int32_t warp = warp_of_thread(), lane = lane_of_thread(), threads = static_cast<int32_t>(blockDim.x);
  const Place place(geometry, Plan{plan.warps, plan.across, 1}, geometry.height, plan.down * plan.taps * plan.outputs);
  const int64_t output = place.part % plan.outputs * kOutputs, j = place.part / plan.outputs % plan.taps * kTaps;
  const int64_t i = place.part / plan.outputs / plan.taps * plan.warps + warp;
  const int64_t y = place.row - geometry.radius() + i, x = place.x - geometry.radius() + j;
  const bool has_row = i < geometry.kernel && y >= 0 && y < geometry.height;
  const Row row{place.n, y, x, has_row ? geometry.width : 0, 1, 0};

  C sums[kTaps][kOutputs] = {};
#pragma unroll 1
  for (int64_t channel = place.channel; channel < place.end; channel += kSummed) {
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kOutputs; ++k) {
      const int64_t a = (output + k) / geometry.scale, b = output + k - a * geometry.scale;
      const int64_t end = output + k < geometry.shares() ? place.end : 0;
      fill<kSummed, kWarpSize>(grad,
                               Row{place.n, place.row * geometry.scale + a, place.x, geometry.width, geometry.scale, b},
                               channel, end, grads[k], static_cast<int32_t>(threadIdx.x), threads);
    }
    fill<kSummed, kSeen>(features, row, channel, place.end, pixels[warp], lane, kWarpSize);
    __syncthreads();
#pragma unroll 2
    for (int c = 0; c < kSummed; ++c) {
      C of_outputs[kOutputs];
#pragma unroll
      for (int k = 0; k < kOutputs; ++k) of_outputs[k] = grads[k][c * kRow + lane];
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        const C seen = pixels[warp][c * kRow + lane + t];
#pragma unroll
        for (int k = 0; k < kOutputs; ++k) sums[t][k] += of_outputs[k] * seen;
      }
    }
  }
  if (i >= geometry.kernel || place.x + lane >= geometry.width) return;
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    if (j + t >= geometry.kernel) break;
    // What a tap beyond the image has is no sum of zeros, since a gradient may be infinite.
    const bool counts = row.has(lane + t);
#pragma unroll
    for (int k = 0; k < kOutputs; ++k) {
      if (output + k >= geometry.shares()) break;
      const int64_t a = (output + k) / geometry.scale, b = output + k - a * geometry.scale;
      store(result.at(place.n, place.group * geometry.taps() + i * geometry.kernel + j + t,
                      place.row * geometry.scale + a, (place.x + lane) * geometry.scale + b),
            narrow<T>(counts ? sums[t][k] : C(0)));
    }
  }
}

}  // namespace handgrad::carafe
