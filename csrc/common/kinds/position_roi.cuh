// The same on CUDA devices.
//
// Forward: a thread for each element of the output. The gradient of the input is not scattered but gathered: a block
// has a tile of pixels in some channels of one bin, and goes through the boxes whose bin reaches the tile, in order.
// For a few boxes at a time its threads make the weights of the tile's rows and columns; then each adds, for its pixel
// and its channels. So nothing is atomic, and the order of every sum is that of the boxes.
#pragma once

#include <limits>

#include "cuda/access.cuh"
#include "cuda/box_tiles.cuh"
#include "cuda/launch.cuh"
#include "kinds/position_roi.h"
#include "math/box_axis.h"

namespace handgrad {
namespace position_roi {

inline constexpr int kThreads = 256;
// Pixels along a tile's side; channels of a block, and of a thread; boxes whose weights are made at a time.
inline constexpr int kSide = 8, kTileChannels = 32, kPixelChannels = 8, kBoxes = kThreads / (2 * kSide);
static_assert(kSide * kSide * (kTileChannels / kPixelChannels) == kThreads);

// Box k along the axis of rows (0) or of columns (1).
template <class Op, class C>
__device__ __forceinline__ auto axis_of(const PositionGeometry& geometry, const View<const C, 2>& boxes, int32_t k,
                                        int axis) {
  return Op::axis(load(boxes.at(k, 2 - axis)), load(boxes.at(k, 4 - axis)), geometry,
                  axis == 0 ? geometry.pooled_h : geometry.pooled_w, axis == 0 ? geometry.height : geometry.width);
}

// Neighbouring threads have what is neighbours in the output's memory.
template <class Op, class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    output_kernel(PositionGeometry geometry, View<const T, 4> input,  // [N, C, H, W]
                  View<const Compute<T>, 2> boxes,                    // [K, 5]
                  bool channels_last, View<T, 4> output) {            // [K, C / bins, pooled_h, pooled_w]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, bins = geometry.bins();
  const int64_t of_box = geometry.output_channels * bins;
  if (i >= geometry.boxes * of_box) return;
  const int32_t k = static_cast<int32_t>(i / of_box);
  const int64_t rest = i - k * of_box, inner_size = channels_last ? geometry.output_channels : bins;
  const int64_t outer = rest / inner_size, inner = rest - outer * inner_size;
  const int32_t c = static_cast<int32_t>(channels_last ? inner : outer);
  const int64_t bin = channels_last ? outer : inner;
  const int32_t p = static_cast<int32_t>(bin / geometry.pooled_w);
  const int32_t q = static_cast<int32_t>(bin - int64_t{p} * geometry.pooled_w);
  const int32_t image = geometry.batch_index(load(boxes.at(k, 0)));
  const auto rows = axis_of<Op, C>(geometry, boxes, k, 0), columns = axis_of<Op, C>(geometry, boxes, k, 1);
  const bool is_nan = image < 0 || rows.is_nonfinite || columns.is_nonfinite;
  C sum = is_nan ? std::numeric_limits<C>::quiet_NaN() : C(0);
  if (!is_nan) {
    const int32_t row_end = rows.end(p), column_begin = columns.begin(q), column_end = columns.end(q);
    for (int32_t iy = rows.begin(p); iy < row_end; ++iy) {
      const AxisSample<C> y = rows.sample(rows.point(p, iy));
      const T* const low = input.at(image, c * bins + bin, y.low, 0);
      const T* const high = input.at(image, c * bins + bin, y.high, 0);
      C of_row = 0;
      for (int32_t ix = column_begin; ix < column_end; ++ix) {
        const AxisSample<C> x = columns.sample(columns.point(q, ix));
        const int64_t left = x.low * input.strides[3], right = x.high * input.strides[3];
        of_row += (1 - y.weight) * (1 - x.weight) * widen(load(low + left));
        // Beyond the first and the last pixel, and of whole pixels, there is no other.
        if (x.high != x.low) of_row += (1 - y.weight) * x.weight * widen(load(low + right));
        if (y.high == y.low) continue;
        of_row += y.weight * (1 - x.weight) * widen(load(high + left));
        if (x.high != x.low) of_row += y.weight * x.weight * widen(load(high + right));
      }
      sum += of_row;
    }
    if (rows.begin(p) < row_end && column_begin < column_end) sum *= rows.share(p) * columns.share(q);
  }
  store(output.at(k, c, p, q), narrow<T>(sum));
}

// Whether bin p of a box may look at one of the pixels [first, last) of an axis.
template <class Axis>
__device__ __forceinline__ bool may_reach(const Axis& axis, int32_t p, int32_t first, int32_t last) {
  if (axis.is_nonfinite) return false;
  const int32_t begin = axis.begin(p), end = axis.end(p);
  if (begin >= end) return false;
  const auto from = axis.point(p, begin), to = axis.point(p, end - 1);
  const auto low = from < to ? from : to, high = from < to ? to : from;
  return high + 1 >= first && low - 1 <= last;
}

// What bin p weighs a pixel of an axis by.
template <class C, class Axis>
__device__ __forceinline__ C pixel_weight(const Axis& axis, int32_t p, int32_t pixel) {
  const int32_t end = axis.end(p, pixel);
  C weight = 0;
  for (int32_t i = axis.begin(p, pixel); i < end; ++i) {
    const C point = axis.point(p, i);
    if (!axis.touches(point, pixel)) continue;
    const AxisSample<C> sample = axis.sample(point);
    if (sample.low == pixel) weight += 1 - sample.weight;
    if (sample.high == pixel && sample.high != sample.low) weight += sample.weight;
  }
  return weight == 0 ? weight : weight * axis.share(p);
}

// Blocks are (channels, bin, image, tile).
template <class Op, class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_input_kernel(PositionGeometry geometry, View<const T, 4> grad_output,    // [K, C / bins, pooled_h, pooled_w]
                      View<const Compute<T>, 2> boxes,                            // [K, 5]
                      int32_t tiles_h, int32_t tiles_w, View<T, 4> grad_input) {  // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  __shared__ BoxesOfTile<kThreads> near;
  // By box, axis and pixel.
  __shared__ C weights[kBoxes][2][kSide];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t tiles = int64_t{tiles_h} * tiles_w, bins = geometry.bins();
  const int64_t block = blockIdx.x, image_of = block / tiles, bin_of = image_of / geometry.batch;
  const int64_t tile = block - image_of * tiles, bin = bin_of % bins;
  const int32_t image = static_cast<int32_t>(image_of - bin_of * geometry.batch);
  const int32_t p = static_cast<int32_t>(bin / geometry.pooled_w);
  const int32_t q = static_cast<int32_t>(bin - int64_t{p} * geometry.pooled_w);
  const int32_t first[2] = {static_cast<int32_t>(tile / tiles_w) * kSide, static_cast<int32_t>(tile % tiles_w) * kSide};
  const int row = thread / kSide % kSide, column = thread % kSide;
  const int32_t channel =
      static_cast<int32_t>(bin_of / bins) * kTileChannels + thread / (kSide * kSide) * kPixelChannels;

  C sums[kPixelChannels] = {};
  for (int32_t some = 0; some < geometry.boxes; some += kThreads) {
    const int count = near.find(geometry.boxes, some, [&](int32_t k) {
      return geometry.batch_index(load(boxes.at(k, 0))) == image &&
             may_reach(axis_of<Op, C>(geometry, boxes, k, 0), p, first[0], first[0] + kSide) &&
             may_reach(axis_of<Op, C>(geometry, boxes, k, 1), q, first[1], first[1] + kSide);
    });
    for (int begin = 0; begin < count; begin += kBoxes) {
      const int few = count - begin < kBoxes ? count - begin : kBoxes;
      const int mine = thread / (2 * kSide), axis = thread / kSide % 2, pixel = thread % kSide;
      if (mine < few) {
        const auto of_box = axis_of<Op, C>(geometry, boxes, near.boxes[begin + mine], axis);
        weights[mine][axis][pixel] =
            pixel_weight<C>(of_box, axis == 0 ? p : q, (axis == 0 ? first[0] : first[1]) + pixel);
      }
      __syncthreads();
      for (int b = 0; b < few; ++b) {
        const C weight = weights[b][0][row] * weights[b][1][column];
        if (weight == 0) continue;
        const T* const from = grad_output.at(near.boxes[begin + b], channel, p, q);
#pragma unroll
        for (int j = 0; j < kPixelChannels; ++j) {
          if (channel + j >= geometry.output_channels) continue;
          sums[j] += weight * widen(load(from + j * grad_output.strides[1]));
        }
      }
      // The weights of the next boxes, or the boxes themselves, are about to take the place of these.
      __syncthreads();
    }
  }
  const int32_t y = first[0] + row, x = first[1] + column;
  if (y >= geometry.height || x >= geometry.width) return;
#pragma unroll
  for (int j = 0; j < kPixelChannels; ++j) {
    if (channel + j >= geometry.output_channels) continue;
    store(grad_input.at(image, (channel + j) * bins + bin, y, x), narrow<T>(sums[j]));
  }
}

}  // namespace position_roi

struct PositionRoisOnCuda {
  template <class Op>
  static void run(const PositionGeometry& geometry, const position_roi::PooledTensors& tensors) {
    using namespace position_roi;
    const DeviceOf device(tensors.input);
    dispatch_floating(Op::name, tensors.input.scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      const View<const Compute<T>, 2> boxes = view<Compute<T>, 2>(tensors.boxes);
      if (!tensors.from) {
        launch("position_roi_output", output_kernel<Op, T>, device,
               blocks_for(int64_t{geometry.boxes} * geometry.output_channels * geometry.bins(), kThreads), geometry,
               view<T, 4>(tensors.input), boxes, !tensors.to.is_contiguous(), mutable_view<T, 4>(tensors.to));
        return;
      }
      const int32_t tiles_h = (geometry.height + kSide - 1) / kSide, tiles_w = (geometry.width + kSide - 1) / kSide;
      const int64_t chunks = (geometry.output_channels + kTileChannels - 1) / kTileChannels;
      launch("position_roi_grad_input", grad_input_kernel<Op, T>, device,
             {chunks * geometry.bins() * geometry.batch * tiles_h * tiles_w, dim3(kThreads, 1, 1)}, geometry,
             view<T, 4>(*tensors.from), boxes, tiles_h, tiles_w, mutable_view<T, 4>(tensors.to));
    });
  }
};

}  // namespace handgrad
