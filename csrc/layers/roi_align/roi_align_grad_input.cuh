// The gradient of the image on CUDA devices, or what the double backward adds to it: gathered, not scattered.
//
// A block has a tile of pixels and some channels, and goes through the boxes that reach the tile, in order. For each of
// them half of its threads make the weights of the tile's rows and columns, once for all pixels and channels; the other
// half fetch the gradient of the box's bins. Then every thread adds to its own pixel what that one gave, for a few
// channels: of the bins that touch it alone, which a bit for each says. While some threads add, others are at the next
// box already: what they fill is another copy of the shared memory.
//
// In order of appearance: Stage, what a block has of one box; Weigher, who fills it with a Fetcher; Pixel, a thread's
// own sums; the kernel.
#pragma once

#include "cuda/box_tiles.cuh"
#include "cuda/shared_bins.cuh"
#include "roi_align_kernels.cuh"

namespace handgrad::roi_align {

using sampled_roi::kPixelChannels;
using sampled_roi::kSide;
using sampled_roi::kTileChannels;

// Bins of a box along each axis that are taken at a time: the bits of a byte.
inline constexpr int kBins = 8;
// Threads that make weights, one for each axis, pixel and bin; the others fetch.
inline constexpr int kWeighers = 2 * kSide * kBins;
// With so many sampling points in a bin, or fewer, looking at each is cheaper than searching.
inline constexpr int32_t kFewPoints = 4;

// Bins [p, p + kBins) x [q, q + kBins) of box k.
struct Bins {
  int32_t k, p, q;
};

template <class T>
using Fetcher = BinFetcher<T, kBins, kTileChannels, (kThreads - kWeighers) / kWarpSize>;

// One box beside one tile. Rows are padded, so that what a warp reads at a time lies in different banks.
template <class C>
struct Stage {
  SharedBins<C, kBins, kTileChannels> bins;
  // [axis, pixel, bin], the axis of rows first
  C weight[2][kSide][kBins + 1], change[2][kSide][kBins + 1];
  // By axis: a byte for each pixel, a bit for each bin that touches it.
  uint32_t touched[2][kSide / 4];

  __device__ uint32_t bins_at(int axis, int pixel) const { return touched[axis][pixel / 4] >> (pixel % 4 * 8) & 0xffu; }
};

// Makes the weight of one bin for one pixel on one axis, and how that changes along a motion of the coordinates.
template <class T, bool Twice>
struct Weigher {
  using C = Compute<T>;
  int axis, pixel, bin;

  __device__ explicit Weigher(int thread)
      : axis(thread / (kSide * kBins)), pixel(thread / kBins % kSide), bin(thread % kBins) {}

  // All threads of a warp must call it.
  __device__ void fill(const Geometry& geometry, const Operands<T>& operands, const Bins& bins, int32_t first_pixel,
                       Stage<C>& stage) const {
    // x1, y1, x2, y2 are columns 1 to 4.
    const int first = 2 - axis, second = 4 - axis;
    const BoxAxis<C> box(load(operands.boxes.at(bins.k, first)), load(operands.boxes.at(bins.k, second)),
                         static_cast<C>(geometry.spatial_scale), geometry.sampling_ratio, geometry.aligned,
                         axis == 0 ? geometry.pooled_h : geometry.pooled_w,
                         axis == 0 ? geometry.height : geometry.width);
    C v_first = 0, v_second = 0, weight = 0, change = 0;
    if (Twice && operands.v_boxes) {
      v_first = load(operands.v_boxes.at(bins.k, first)), v_second = load(operands.v_boxes.at(bins.k, second));
    }
    const int32_t p = (axis == 0 ? bins.p : bins.q) + bin, y = first_pixel + pixel;
    if (p < box.pooled_size && y < box.size) weigh(box, p, y, v_first, v_second, weight, change);
    stage.weight[axis][pixel][bin] = weight;
    if (Twice) stage.change[axis][pixel][bin] = change;
    const uint32_t touched = __ballot_sync(0xffffffffu, weight != 0 || change != 0);
    if (threadIdx.x % kWarpSize == 0) stage.touched[axis][pixel / 4] = touched;
  }

 private:
  __device__ static void weigh(const BoxAxis<C>& axis, int32_t p, int32_t pixel, C v_first, C v_second, C& weight,
                               C& change) {
    int32_t i = 0, end = axis.bin_grid;
    if (end > kFewPoints) i = axis.begin(p, pixel), end = axis.end(p, pixel);
    for (; i < end; ++i) {
      if (!axis.touches(axis.point(p, i), pixel)) continue;
      const Neighbours<C> neighbours(axis, p, i, v_first, v_second);
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        if (neighbours.pixel[side] == pixel) weight += neighbours.weight[side], change += neighbours.change[side];
      }
    }
  }
};

// The gradient of one pixel of the tile, for the channels of one thread.
template <class C, bool Twice>
struct Pixel {
  int row, column, channel;
  C sums[kPixelChannels] = {};

  __device__ explicit Pixel(int thread)
      : row(thread / kSide % kSide), column(thread % kSide), channel(thread / (kSide * kSide) * kPixelChannels) {}

  __device__ void add(const Stage<C>& stage) {
    const uint32_t columns = stage.bins_at(1, column);
    for (uint32_t rows = columns ? stage.bins_at(0, row) : 0; rows; rows &= rows - 1) {
      const int a = __ffs(static_cast<int>(rows)) - 1;
      const C weight_y = stage.weight[0][row][a], change_y = Twice ? stage.change[0][row][a] : C(0);
      for (uint32_t rest = columns; rest; rest &= rest - 1) {
        const int b = __ffs(static_cast<int>(rest)) - 1;
        const C weight_x = stage.weight[1][column][b];
        C weight = weight_y * weight_x;
        if constexpr (Twice) weight = change_y * weight_x + weight_y * stage.change[1][column][b];
        add_bin(stage.bins, a * kBins + b, channel, weight, sums);
      }
    }
  }
};

template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, sizeof(Compute<T>) == sizeof(float) ? 3
                                            : Twice                             ? 1
                                                                                : kMinBlocks)
    grad_input_kernel(Geometry geometry, Operands<T> operands,
                      View<const T, 4> grad_output,                               // [K, C, pooled_h, pooled_w]
                      int32_t tiles_h, int32_t tiles_w, View<T, 4> grad_input) {  // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  __shared__ BoxesOfTile<kThreads> near;
  __shared__ Stage<C> stages[2];
  const int thread = static_cast<int>(threadIdx.x);
  const sampled_roi::TilePlace place(geometry, tiles_h, tiles_w);
  const int32_t first_channel = place.first_channel, image = place.image;
  const int32_t first_y = place.first_y, first_x = place.first_x;
  const bool weighs = thread < kWeighers;
  const Weigher<T, Twice> weigher(thread);
  const Fetcher<T> fetcher(thread - kWeighers, first_channel, geometry.channels);
  const int32_t first_pixel = weigher.axis == 0 ? first_y : first_x;

  Pixel<C, Twice> pixel(thread);
  int copy = 0;
  for (int32_t some = 0; some < geometry.boxes; some += kThreads) {
    const int count = near.find(geometry.boxes, some, [&](int32_t k) {
      const BoxOnDevice<false, C> box(geometry, operands, k);
      return box.image == image && box.axis_h.may_touch(first_y, first_y + kSide) &&
             box.axis_w.may_touch(first_x, first_x + kSide);
    });
    for (int32_t i = 0; i < count; ++i) {
      Bins bins{near.boxes[i], 0, 0};
      for (bins.p = 0; bins.p < geometry.pooled_h; bins.p += kBins) {
        for (bins.q = 0; bins.q < geometry.pooled_w; bins.q += kBins) {
          // Whoever fills this copy has passed the last barrier, and so has all that read it.
          Stage<C>& stage = stages[copy];
          copy ^= 1;
          if (weighs) {
            weigher.fill(geometry, operands, bins, first_pixel, stage);
          } else {
            fetcher.fill(grad_output, bins.k, bins.p, bins.q, geometry.pooled_h - bins.p, geometry.pooled_w - bins.q,
                         stage.bins);
          }
          __syncthreads();
          pixel.add(stage);
        }
      }
    }
  }
  const int32_t y = first_y + pixel.row, x = first_x + pixel.column;
  if (y >= geometry.height || x >= geometry.width) return;
#pragma unroll
  for (int j = 0; j < kPixelChannels; ++j) {
    const int32_t c = first_channel + pixel.channel + j;
    if (c < geometry.channels) store(grad_input.at(image, c, y, x), narrow<T>(pixel.sums[j]));
  }
}

}  // namespace handgrad::roi_align
