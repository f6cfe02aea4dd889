// The gradient of the second map on CUDA devices, or what the double backward makes of it: gathered, not scattered.
//
// A block has a tile of pixels of one image, and 32 channels. It looks at all points of the image, as many at a time as
// it has threads, and lists those whose window touches the tile, in order. Of as many of them as it has warps, each
// warp makes what the tile's pixels have of one for factors; then each adds to a row of the tile, its lanes the
// channels. So every sum has one order, nothing is added atomically, and half types are rounded once.
#pragma once

#include "correlation_lookup_kernels.cuh"
#include "cuda/in_order.cuh"

namespace handgrad::correlation_lookup {

inline constexpr int kMapThreads = 256, kMapWarps = kMapThreads / kWarpSize;
// A row for each warp.
inline constexpr int kTileRows = kMapWarps, kTileColumns = 16;

// Blocks are (image, channels, tile), tiles innermost.
template <class T, bool Twice>
__global__ void __launch_bounds__(kMapThreads, kMinBlocks)
    grad_map_kernel(Geometry geometry, Operands<T> operands, View<const T, 4> grad,  // [N, outputs, H, W]
                    int64_t tiles, View<T, 4> grad_fmap2) {                          // [N, C, H2, W2]
  HANDGRAD_LAUNCH_BOUNDS(kMapThreads);
  using C = Compute<T>;
  constexpr int kKinds = Twice ? 2 : 1;
  __shared__ InOrder<kMapThreads> in_order;
  __shared__ int32_t listed[kMapThreads];
  __shared__ C factors[kMapWarps][kKinds][kTileRows * kTileColumns];
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarpSize,
                lane = static_cast<int32_t>(threadIdx.x) % kWarpSize;
  const int64_t block = blockIdx.x, outer = block / tiles, tile = block - outer * tiles;
  const int64_t pieces = (geometry.channels + kWarpSize - 1) / kWarpSize;
  const int64_t across = (geometry.map_width + kTileColumns - 1) / kTileColumns;
  const int64_t first_row = tile / across * kTileRows, first_column = tile % across * kTileColumns;
  const int64_t channel = outer % pieces * kWarpSize + lane;
  const int32_t n = static_cast<int32_t>(outer / pieces);
  const bool has_channel = channel < geometry.channels;
  const int32_t width = static_cast<int32_t>(geometry.width);
  const bool moves = Twice && operands.v_coords;

  C sums[kTileColumns] = {};
  const int64_t pixels = geometry.height * geometry.width;
#pragma unroll 1
  for (int64_t first = 0; first < pixels; first += kMapThreads) {
    const int64_t index = first + threadIdx.x;
    bool hit = false;
    if (index < pixels) {
      const Pixel at(n, static_cast<int32_t>(index / width), static_cast<int32_t>(index % width));
      const Window<C> window = at.window(geometry, operands);
      hit = !window.is_outside() && window.row + window.first_row < first_row + kTileRows &&
            window.row + window.last_row > first_row &&
            window.column + window.first_column < first_column + kTileColumns &&
            window.column + window.last_column > first_column;
    }
    int rank = 0;
    const int total = in_order.count(hit, rank);
    if (hit) listed[rank] = static_cast<int32_t>(index);
    __syncthreads();
#pragma unroll 1
    for (int some = 0; some < total; some += kMapWarps) {
      if (some + warp < total) {
        const Pixel at(n, listed[some + warp] / width, listed[some + warp] % width);
        const Window<C> window = at.window(geometry, operands);
        const C vx = Twice ? at.motion(operands, 0) : C(0), vy = Twice ? at.motion(operands, 1) : C(0);
#pragma unroll 1
        for (int32_t k = lane; k < kTileRows * kTileColumns; k += kWarpSize) {
          const int64_t i = first_row + k / kTileColumns - window.row,
                        j = first_column + k % kTileColumns - window.column;
          const bool is_there = window.has(j, i);
          const int32_t column = static_cast<int32_t>(is_there ? j : 0), row = static_cast<int32_t>(is_there ? i : 0);
          factors[warp][0][k] = is_there ? factor<T, false>(geometry, window, at, grad, column, row, vx, vy) : C(0);
          if constexpr (Twice) {
            factors[warp][1][k] =
                is_there && moves ? factor<T, true>(geometry, window, at, grad, column, row, vx, vy) : C(0);
          }
        }
      }
      __syncthreads();
#pragma unroll 1
      for (int w = 0; w < kMapWarps && some + w < total; ++w) {
        const int32_t y = listed[some + w] / width, x = listed[some + w] % width;
        const auto add = [&](const View<const T, 4>& features, const C* row) {
          const C feature = has_channel ? widen(load_constant(features.at(n, channel, y, x))) : C(0);
#pragma unroll
          for (int column = 0; column < kTileColumns; ++column) {
            // Pixels without a weight, those beyond the window for one, get nothing of an infinite feature.
            const C by = row[column];
            sums[column] += by == 0 ? C(0) : by * feature;
          }
        };
        const C* const row = factors[w][0] + warp * kTileColumns;
        if constexpr (Twice) {
          if (operands.v_fmap1) add(operands.v_fmap1, row);
          if (moves) add(operands.fmap1, factors[w][1] + warp * kTileColumns);
        } else {
          add(operands.fmap1, row);
        }
      }
      // The factors, and the list, are read no more.
      __syncthreads();
    }
  }
  const int64_t row = first_row + warp;
  if (row >= geometry.map_height || !has_channel) return;
#pragma unroll
  for (int column = 0; column < kTileColumns; ++column) {
    if (first_column + column < geometry.map_width) {
      store(grad_fmap2.at(n, channel, row, first_column + column), narrow<T>(sums[column]));
    }
  }
}

}  // namespace handgrad::correlation_lookup
