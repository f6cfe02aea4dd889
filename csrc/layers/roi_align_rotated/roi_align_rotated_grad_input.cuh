// The gradient of the image on CUDA devices, or what the double backward adds to it: gathered, not scattered.
//
// A block has a tile of pixels and some channels, and goes through the boxes that reach the tile, in order. What a bin
// weighs a pixel by is no product of the pixel's row and column, but few bins touch a pixel: seen along the box' axes a
// pixel is at most 2.83 long, so that it is in reach of a rectangle of bins, the same number for all pixels. Of each
// box the block fetches the gradient of the bins that the tile is in reach of, and makes for each pixel the weights of
// its rectangle, which the threads of the pixel share out; then each of them adds the bins to its own channels.
//
// In order of appearance: Stage, what a block has of one box; Reach, a pixel's rectangle of bins; bin_weight; the
// kernel.
#pragma once

#include "cuda/box_tiles.cuh"
#include "cuda/shared_bins.cuh"
#include "roi_align_rotated_kernels.cuh"

namespace handgrad::roi_align_rotated {

using sampled_roi::kPixelChannels;
using sampled_roi::kSide;
using sampled_roi::kTileChannels;

// Bins of a box along each axis that are taken at a time, and bins of a pixel's rectangle; pixels of a tile.
inline constexpr int kBins = 8, kSlots = 16, kPixels = kSide * kSide;

template <class C>
struct Stage {
  SharedBins<C, kBins, kTileChannels> bins;
  // [bin of the pixel's rectangle, pixel]
  C weights[kSlots][kPixels];
};

// Of bins [p, p + kBins) x [q, q + kBins), those in reach of a pixel: a rectangle of at most rows x columns, from the
// first one on.
struct Reach {
  int32_t first_row, first_column, row_end, column_end;

  template <class C>
  __device__ Reach(const TurnedBox<C>& box, int32_t y, int32_t x, int32_t p, int32_t q) {
    const Stretch<C> stretch = box.of_pixel(y, x);
    const Range rows = box.rows.bins(stretch.row_low, stretch.row_high);
    const Range columns = box.columns.bins(stretch.column_low, stretch.column_high);
    first_row = rows.begin > p ? rows.begin : p, first_column = columns.begin > q ? columns.begin : q;
    row_end = rows.end < p + kBins ? rows.end : p + kBins;
    column_end = columns.end < q + kBins ? columns.end : q + kBins;
  }

  __device__ bool has(int32_t row, int32_t column) const {
    return first_row + row < row_end && first_column + column < column_end;
  }
};

// What bin (p, q) weighs a pixel by; for Twice how that changes along the motion.
template <bool Twice, class C>
__device__ __forceinline__ C bin_weight(const BoxOnDevice<Twice, C>& box, int32_t p, int32_t q, int32_t y, int32_t x) {
  const Stretch<C> stretch = box.of_pixel(y, x);
  const Range rows = box.rows.points(p, stretch.row_low, stretch.row_high);
  const Range columns = box.columns.points(q, stretch.column_low, stretch.column_high);
  C sum = 0;
  for (int32_t i = rows.begin; i < rows.end; ++i) {
    const C v = box.rows.point(p, i);
    for (int32_t j = columns.begin; j < columns.end; ++j) {
      const C u = box.columns.point(q, j);
      const Point<C> at = box.point(v, u);
      if (!box.is_inside(at)) continue;
      const PixelHat<C> row(at.y, y, box.height), column(at.x, x, box.width);
      if constexpr (Twice) {
        const Point<C> motion = box.motion.of(box, v, u, box.rows.along(p, i), box.columns.along(q, j));
        sum += motion.y * row.slope * column.weight + motion.x * row.weight * column.slope;
      } else {
        sum += row.weight * column.weight;
      }
    }
  }
  return sum * box.share();
}

// Adds bins [p, p + kBins) x [q, q + kBins) of one box, as far as there are so many rows and columns of them, to a
// thread's pixel. All threads must call it.
template <class T, bool Twice>
__device__ __forceinline__ void add_box(const BoxOnDevice<Twice, Compute<T>>& box, int32_t p, int32_t q,
                                        int32_t rows_left, int32_t columns_left, int32_t y, int32_t x,
                                        Stage<Compute<T>>& stage, Compute<T> (&sums)[kPixelChannels]) {
  using C = Compute<T>;
  const int pixel = static_cast<int>(threadIdx.x) % kPixels, part = static_cast<int>(threadIdx.x) / kPixels;
  const Reach reach(box, y, x, p, q);
  // Of the longest stretch of a pixel, along either axis.
  const C pixel_length = 2 * (absolute(box.cosine) + absolute(box.sine) + box.rounding);
  const int32_t rows = box.rows.bins_of(pixel_length, rows_left < kBins ? rows_left : kBins);
  const int32_t columns = box.columns.bins_of(pixel_length, columns_left < kBins ? columns_left : kBins);
  for (int32_t first = 0; first < rows * columns; first += kSlots) {
    const int slots = rows * columns - first < kSlots ? rows * columns - first : kSlots;
    for (int slot = part; slot < slots; slot += kTileChannels / kPixelChannels) {
      const int32_t row = (first + slot) / columns, column = (first + slot) - row * columns;
      C weight = 0;
      if (reach.has(row, column)) {
        weight = bin_weight(box, reach.first_row + row, reach.first_column + column, y, x);
      }
      stage.weights[slot][pixel] = weight;
    }
    __syncthreads();
    int32_t row = first / columns, column = first - row * columns;
    for (int slot = 0; slot < slots; ++slot) {
      const C weight = stage.weights[slot][pixel];
      if (weight != 0) {
        const int bin = (reach.first_row + row - p) * kBins + reach.first_column + column - q;
        add_bin(stage.bins, bin, part * kPixelChannels, weight, sums);
      }
      if (++column == columns) column = 0, ++row;
    }
    // What was read is about to be written again.
    __syncthreads();
  }
}

template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, sizeof(Compute<T>) == sizeof(float) ? kMinBlocks : 1)
    grad_input_kernel(Geometry geometry, Operands<T> operands,
                      View<const T, 4> grad_output,                               // [K, C, pooled_h, pooled_w]
                      int32_t tiles_h, int32_t tiles_w, View<T, 4> grad_input) {  // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  __shared__ BoxesOfTile<kThreads> near;
  __shared__ Stage<C> stage;
  const int thread = static_cast<int>(threadIdx.x);
  const sampled_roi::TilePlace place(geometry, tiles_h, tiles_w);
  const int32_t first_channel = place.first_channel, image = place.image;
  const int32_t first_y = place.first_y, first_x = place.first_x;
  const int32_t y = first_y + thread / kSide % kSide, x = first_x + thread % kSide;
  const BinFetcher<T, kBins, kTileChannels, kThreads / kWarpSize> fetcher(thread, first_channel, geometry.channels);
  // The tile, with what touches its pixels.
  const C middle_y = static_cast<C>(first_y) + C(0.5) * (kSide - 1);
  const C middle_x = static_cast<C>(first_x) + C(0.5) * (kSide - 1), half = C(0.5) * (kSide + 1);
  const auto stretch_of = [&](const TurnedBox<C>& box) { return box.stretch(middle_y, middle_x, half, half); };

  C sums[kPixelChannels] = {};
  for (int32_t some = 0; some < geometry.boxes; some += kThreads) {
    const int count = near.find(geometry.boxes, some, [&](int32_t k) {
      const BoxOnDevice<false, C> box(geometry, operands, k);
      if (box.image != image || !box.has_points()) return false;
      const Point<C> extents = box.half_extents();
      if (absolute(middle_y - box.y) > extents.y + half || absolute(middle_x - box.x) > extents.x + half) return false;
      const Stretch<C> stretch = stretch_of(box);
      return !box.rows.bins(stretch.row_low, stretch.row_high).is_empty() &&
             !box.columns.bins(stretch.column_low, stretch.column_high).is_empty();
    });
    for (int32_t i = 0; i < count; ++i) {
      const int32_t k = near.boxes[i];
      const BoxOnDevice<Twice, C> box(geometry, operands, k);
      const Stretch<C> stretch = stretch_of(box);
      const Range rows = box.rows.bins(stretch.row_low, stretch.row_high);
      const Range columns = box.columns.bins(stretch.column_low, stretch.column_high);
      for (int32_t p = rows.begin; p < rows.end; p += kBins) {
        for (int32_t q = columns.begin; q < columns.end; q += kBins) {
          fetcher.fill(grad_output, k, p, q, rows.end - p, columns.end - q, stage.bins);
          add_box<T, Twice>(box, p, q, rows.end - p, columns.end - q, y, x, stage, sums);
        }
      }
    }
  }
  if (y >= geometry.height || x >= geometry.width) return;
#pragma unroll
  for (int j = 0; j < kPixelChannels; ++j) {
    const int32_t c = first_channel + thread / kPixels * kPixelChannels + j;
    if (c < geometry.channels) store(grad_input.at(image, c, y, x), narrow<T>(sums[j]));
  }
}

}  // namespace handgrad::roi_align_rotated
