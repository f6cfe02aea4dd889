// The kernels of a correlation on CUDA devices: one for outputs, one for the gradient of either map.
//
// Lanes have neighbouring columns, warps different displacements (outputs) or channels (gradients). What they read of
// the maps is in shared memory: a pixel is loaded once for all displacements of a warp that see it.
//
// In order of appearance: Columns, the pixels of a row that a warp keeps; the outputs; the gradients.
#pragma once

#include "abi/view.h"
#include "correlation_host.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"

namespace handgrad::correlation {

// Displacements along a row that a thread has at a time, in registers: PWC-Net's are nine.
inline constexpr int kAtATime = 9;
// Warps of a block at most.
inline constexpr int kMostWarps = 8;
// Channels of a warp in the gradients' kernel.
inline constexpr int kWarpChannels = 8;
// Columns that a warp keeps at most: its own for each displacement.
inline constexpr int64_t kMostColumns = kAtATime * kWarpSize;

// ---- Columns --------------------------------------------------------------------------------------------------------

// The columns that 32 positions, `stride` apart, see at kAtATime displacements, `step` apart: side by side, where the
// displacements share them, or 32 for each displacement.
struct Columns {
  int32_t count, step;  // kept, and between displacements
  bool shares;

  Columns(int64_t stride, int64_t patch_step) {
    const int64_t together = kWarpSize + (kAtATime - 1) * std::min<int64_t>(patch_step, kMostColumns);
    shares = stride == 1 && together <= kMostColumns;
    count = static_cast<int32_t>(shares ? together : kMostColumns);
    step = shares ? static_cast<int32_t>(patch_step) : kWarpSize;
  }
  // The pixel of a column, from the first of all.
  __device__ int64_t pixel(int32_t column, int64_t stride, int64_t patch_step) const {
    return shares ? column : column % kWarpSize * stride + column / kWarpSize * patch_step;
  }
};

// A warp's copy: `channels`, a power of two, from `channel` on, of the kept columns of a row; zeros outside the map.
template <class T>
__device__ void fill(const View<const T, 4>& map, int64_t channels_of_map, const Axis& y, const Axis& x,
                     const Columns& columns, int64_t stride, int64_t n, int64_t channel, int32_t channels, int64_t row,
                     int64_t first, Compute<T>* to) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarpSize;
  const bool innermost = map.strides[1] < map.strides[3];
  const auto put = [&](int32_t c, int32_t column) {
    const int64_t at = first + columns.pixel(column, stride, x.step);
    const bool is_there = y.has(row) && x.has(at) && channel + c < channels_of_map;
    to[c * columns.count + column] = is_there ? widen(load_constant(map.at(n, channel + c, row, at))) : Compute<T>(0);
  };
  if (innermost) {
#pragma unroll 2
    for (int32_t k = lane; k < channels * columns.count; k += kWarpSize) put(k & (channels - 1), k / channels);
  } else {
#pragma unroll 1
    for (int32_t c = 0; c < channels; ++c) {
#pragma unroll 2
      for (int32_t column = lane; column < columns.count; column += kWarpSize) put(c, column);
    }
  }
}

// ---- the outputs ----------------------------------------------------------------------------------------------------

struct OutputPlan {
  int32_t warps, channels;     // of a block; channels that it keeps at a time, a power of two
  int64_t across, down, some;  // tiles of columns, groups of displacements along columns and along rows
};

// Blocks are (image, row, tile of columns, group of vertical displacements, group of horizontal ones), which is
// innermost. A second pair of maps adds to the first.
template <class T>
__global__ void __launch_bounds__(kMostWarps* kWarpSize, kMinBlocks)
    correlation_kernel(Geometry geometry, OutputPlan plan, Columns columns, View<const T, 4> one,
                       View<const T, 4> other, View<const T, 4> second_one, View<const T, 4> second_other,
                       View<T, 5> output) {
  HANDGRAD_LAUNCH_BOUNDS(kMostWarps * kWarpSize);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarpSize,
                lane = static_cast<int32_t>(threadIdx.x) % kWarpSize;
  int64_t block = blockIdx.x;
  const int64_t q = block % plan.some * kAtATime;
  block /= plan.some;
  const int64_t p = block % plan.down * plan.warps + warp;
  block /= plan.down;
  const int64_t x = block % plan.across * kWarpSize;
  block /= plan.across;
  const int64_t y = block % geometry.y.out, n = block / geometry.y.out;
  C* const own = shared;  // [channels][32]
  C* const around = shared + plan.channels * kWarpSize + warp * plan.channels * columns.count;

  C sums[kAtATime] = {};
  const auto add = [&](const View<const T, 4>& left, const View<const T, 4>& right, int64_t row, int64_t first) {
#pragma unroll 1
    for (int64_t channel = 0; channel < geometry.channels; channel += plan.channels) {
      __syncthreads();
#pragma unroll 2
      for (int32_t c = warp; c < plan.channels; c += plan.warps) {
        const int64_t at = first + lane * geometry.x.stride;
        const bool is_there = geometry.y.has(row) && geometry.x.has(at) && channel + c < geometry.channels;
        own[c * kWarpSize + lane] = is_there ? widen(load_constant(left.at(n, channel + c, row, at))) : C(0);
      }
      fill(right, geometry.channels, geometry.y, geometry.x, columns, geometry.x.stride, n, channel, plan.channels,
           row + geometry.y.shift(p), first + geometry.x.shift(q), around);
      __syncthreads();
#pragma unroll 2
      for (int32_t c = 0; c < plan.channels; ++c) {
        const C pixel = own[c * kWarpSize + lane];
        const C* const seen = around + c * columns.count + lane;
#pragma unroll
        for (int k = 0; k < kAtATime; ++k) sums[k] += pixel * seen[k * columns.step];
      }
    }
  };
#pragma unroll 1
  for (int64_t tap = 0; tap < geometry.y.kernel * geometry.x.kernel; ++tap) {
    const int64_t row = geometry.y.pixel(y, tap / geometry.x.kernel);
    const int64_t first = geometry.x.pixel(x, tap % geometry.x.kernel);
    add(one, other, row, first);
    if (second_one) add(second_one, second_other, row, first);
  }
  if (p >= geometry.y.displacements() || x + lane >= geometry.x.out) return;
  const C scale = static_cast<C>(geometry.scale);
#pragma unroll
  for (int k = 0; k < kAtATime; ++k) {
    if (q + k < geometry.x.displacements()) store(output.at(n, p, q + k, y, x + lane), narrow<T>(sums[k] * scale));
  }
}

// ---- the gradients --------------------------------------------------------------------------------------------------

// The gradients of the outputs whose window has pixel (row, column) of the first map in it, added up.
template <class T>
__device__ Compute<T> gathered(const Geometry& geometry, const View<const T, 5>& grad, int64_t n, int64_t p, int64_t q,
                               int64_t row, int64_t column) {
  Compute<T> sum = 0;
#pragma unroll 1
  for (int64_t i = 0; i < geometry.y.kernel; ++i) {
    const int64_t y = geometry.y.output_of(row, i);
    if (y < 0) continue;
#pragma unroll 1
    for (int64_t j = 0; j < geometry.x.kernel; ++j) {
      const int64_t x = geometry.x.output_of(column, j);
      if (x >= 0) sum += widen(load_constant(grad.at(n, p, q, y, x)));
    }
  }
  return sum;
}

struct GradientPlan {
  int32_t warps;
  int64_t across, pieces;  // tiles of columns, pieces of the channels
};

// The gradient of the first map from the pixels of the second; mirrored, the other way round, with displacements
// counted from the last to the first. Blocks are (image, row, tile of columns, piece of the channels), which is
// innermost.
template <class T>
__global__ void __launch_bounds__(kMostWarps* kWarpSize, kMinBlocks)
    correlation_gradient_kernel(Geometry geometry, GradientPlan plan, Columns columns, bool mirrored,
                                View<const T, 5> grad, View<const T, 4> map, View<T, 4> result) {
  HANDGRAD_LAUNCH_BOUNDS(kMostWarps * kWarpSize);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarpSize,
                lane = static_cast<int32_t>(threadIdx.x) % kWarpSize;
  int64_t block = blockIdx.x;
  const int64_t channel = (block % plan.pieces * plan.warps + warp) * kWarpChannels;
  block /= plan.pieces;
  const int64_t x = block % plan.across * kWarpSize;
  block /= plan.across;
  const int64_t row = block % geometry.y.size, n = block / geometry.y.size;
  const int64_t down = geometry.y.displacements(), across = geometry.x.displacements();
  C* const weights = shared;  // [kAtATime][32]
  C* const around = shared + kAtATime * kWarpSize + warp * kWarpChannels * columns.count;

  C sums[kWarpChannels] = {};
#pragma unroll 1
  for (int64_t p = 0; p < down; ++p) {
#pragma unroll 1
    for (int64_t q = 0; q < across; q += kAtATime) {
      __syncthreads();
#pragma unroll 1
      for (int32_t k = warp; k < kAtATime && q + k < across; k += plan.warps) {
        weights[k * kWarpSize + lane] =
            gathered(geometry, grad, n, mirrored ? down - 1 - p : p, mirrored ? across - 1 - q - k : q + k,
                     row + (mirrored ? geometry.y.shift(p) : 0), x + lane + (mirrored ? geometry.x.shift(q + k) : 0));
      }
      fill(map, geometry.channels, geometry.y, geometry.x, columns, 1, n, channel, kWarpChannels,
           row + geometry.y.shift(p), x + geometry.x.shift(q), around);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kAtATime; ++k) {
        if (q + k >= across) break;
        const C weight = weights[k * kWarpSize + lane];
        const C* const seen = around + k * columns.step + lane;
#pragma unroll
        for (int c = 0; c < kWarpChannels; ++c) sums[c] += weight * seen[c * columns.count];
      }
    }
  }
  if (x + lane >= geometry.x.size) return;
  const C scale = static_cast<C>(geometry.scale);
#pragma unroll
  for (int c = 0; c < kWarpChannels; ++c) {
    if (channel + c < geometry.channels) store(result.at(n, channel + c, row, x + lane), narrow<T>(sums[c] * scale));
  }
}

}  // namespace handgrad::correlation
