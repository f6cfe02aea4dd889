// The kernels of resized_crop on CUDA devices.
//
// In order of appearance: Tables, the taps of all of them; the kernel that makes them; the output;
// the gradient of the image.
#pragma once

#include <limits>

#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "math/statistics.h"
#include "resized_crop_host.h"

namespace handgrad::resized_crop {

inline constexpr int kThreads = 256;
// Channels of one launch: a thread has all of them, so that weights are looked up once, and what normalises them is a
// parameter of the kernel.
inline constexpr int kChannels = Statistics::kMost;

// Taps as one number: the first of them, and how many there are. Or outputs.
__device__ __forceinline__ int64_t packed(const Taps& taps) { return int64_t{taps.first} << 32 | taps.count; }
__device__ __forceinline__ Taps unpacked(int64_t taps) {
  return {static_cast<int32_t>(taps >> 32), static_cast<int32_t>(taps & 0xffffffff)};
}

// The taps of an axis of one box, in global memory.
template <class C>
struct AxisTable {
  const C* weights;        // [outputs, most]
  const int64_t* windows;  // [outputs]
  int64_t most;

  __device__ Taps taps(int64_t o) const { return unpacked(load(windows + o)); }
  __device__ C weight(int64_t o, int32_t k) const { return load(weights + o * most + k); }
};

// Those of both axes, columns and rows, of `sets` boxes.
template <class C>
struct Tables {
  double* exact;     // [sets, outputs of both, most]
  C* weights;        // the same
  int64_t* windows;  // [sets, outputs of both and two more]: the last of an axis is its precision, -1 for no box
  int64_t* users;    // [sets, pixels of both]: the outputs that a pixel of the crop is in; only for the gradient
  int64_t outputs[2], most[2], pixels[2];

  HANDGRAD_MATH int64_t users_before(int64_t set, int axis) const {
    return set * (pixels[0] + pixels[1]) + (axis ? pixels[0] : 0);
  }
  HANDGRAD_MATH int64_t weights_before(int64_t set, int axis) const {
    const int64_t columns = outputs[0] * most[0];
    return set * (columns + outputs[1] * most[1]) + (axis ? columns : 0);
  }
  HANDGRAD_MATH int64_t windows_before(int64_t set, int axis) const {
    return set * (outputs[0] + outputs[1] + 2) + (axis ? outputs[0] + 1 : 0);
  }
  __device__ AxisTable<C> axis(int64_t set, int axis) const {
    return {weights + weights_before(set, axis), windows + windows_before(set, axis), most[axis]};
  }
  __device__ int32_t precision(int64_t set, int axis) const {
    return static_cast<int32_t>(load(windows + windows_before(set, axis) + outputs[axis]));
  }
};

// The first of some outputs in whose taps a pixel has been reached.
template <class Reached>
__device__ int32_t search(const int64_t* windows, int64_t outputs, const Reached& reached) {
  int32_t low = 0, high = static_cast<int32_t>(outputs);
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (reached(unpacked(load(windows + middle)))) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// ---- the tables -----------------------------------------------------------------------------------------------------

// A block makes the table of one axis of one box: in double, and from that what is multiplied with, integers for uint8.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    tables_kernel(Geometry geometry, BoxTable boxes, Tables<C> tables, bool of_levels) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t set = blockIdx.x / 2;
  const int which = static_cast<int>(blockIdx.x % 2);
  int64_t* windows = tables.windows + tables.windows_before(set, which);
  const int64_t outputs = tables.outputs[which], most = tables.most[which];
  if (!boxes.is_inside(set, geometry.height, geometry.width)) {
    if (threadIdx.x == 0) store(windows + outputs, int64_t{-1});
    return;
  }
  const Box box = boxes.box(set);
  const Axis axis = which ? geometry.rows(box) : geometry.columns(box);
  double* exact = tables.exact + tables.weights_before(set, which);
  C* weights = tables.weights + tables.weights_before(set, which);
  __shared__ double largest_of[kThreads];
  double largest = 0;
  for (int64_t o = threadIdx.x; o < outputs; o += kThreads) {
    const Taps taps = axis.fill(static_cast<int32_t>(o), exact + o * most, largest);
    store(windows + o, packed(taps));
  }
  largest_of[threadIdx.x] = largest;
  __syncthreads();
  for (int t = 0; t < kThreads; ++t) largest = largest_of[t] > largest ? largest_of[t] : largest;
  const int32_t precision = precision_of(largest, geometry.pillow);
  for (int64_t o = threadIdx.x; o < outputs; o += kThreads) {
    const int32_t count = unpacked(load(windows + o)).count;
    for (int32_t k = 0; k < count; ++k) {
      const double weight = load(exact + o * most + k);
      store(weights + o * most + k,
            of_levels ? static_cast<C>(integer_weight(weight, precision)) : static_cast<C>(weight));
    }
  }
  if (threadIdx.x == 0) store(windows + outputs, int64_t{precision});
  if (!tables.users) return;
  // Windows are in order, so that the outputs of a pixel are neighbours.
  int64_t* users = tables.users + tables.users_before(set, which);
  for (int64_t pixel = threadIdx.x; pixel < axis.size; pixel += kThreads) {
    const int32_t begin = search(windows, outputs, [&](const Taps& own) { return own.first + own.count > pixel; });
    const int32_t end = search(windows, outputs, [&](const Taps& own) { return own.first > pixel; });
    store(users + pixel, packed({begin, end - begin}));
  }
}

// ---- the output -----------------------------------------------------------------------------------------------------

// A sum of levels, rounded to a level.
HANDGRAD_MATH int32_t level_of(int32_t sum, int32_t precision) {
  const int32_t level = sum >> precision;
  return level < 0 ? 0 : level > 255 ? 255 : level;
}

// Output pixel (i, j) of `channels` channels, the first of which has its crop at `crop`; for uint8 levels.
template <class In, class C>
__device__ __forceinline__ void resample(const View<const In, 4>& image, const In* crop, const AxisTable<C>& rows,
                                         const AxisTable<C>& columns, int64_t i, int64_t j, int32_t precision_y,
                                         int32_t precision_x, int32_t channels, C (&values)[kChannels]) {
  constexpr bool kLevels = sizeof(In) == 1;
  // What sums are made in.
  using S = std::conditional_t<kLevels, int32_t, C>;
  const Taps own_rows = rows.taps(i), own_columns = columns.taps(j);
  const In* corner = crop + own_rows.first * image.strides[2] + own_columns.first * image.strides[3];
  S totals[kChannels];
#pragma unroll
  for (int c = 0; c < kChannels; ++c) totals[c] = kLevels ? S(1 << (precision_y - 1)) : S(0);
  for (int32_t y = 0; y < own_rows.count; ++y) {
    S sums[kChannels];
#pragma unroll
    for (int c = 0; c < kChannels; ++c) sums[c] = kLevels ? S(1 << (precision_x - 1)) : S(0);
    for (int32_t x = 0; x < own_columns.count; ++x) {
      const S weight = static_cast<S>(columns.weight(j, x));
      const In* pixel = corner + y * image.strides[2] + x * image.strides[3];
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        if (c >= channels) continue;
        if constexpr (kLevels) {
          sums[c] += weight * static_cast<S>(load(pixel + c * image.strides[1]));
        } else {
          sums[c] += weight * widen(load(pixel + c * image.strides[1]));
        }
      }
    }
    const S weight = static_cast<S>(rows.weight(i, y));
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      if constexpr (kLevels) {
        totals[c] += weight * level_of(sums[c], precision_x);
      } else {
        totals[c] += weight * sums[c];
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    if constexpr (kLevels) {
      values[c] = static_cast<C>(level_of(totals[c], precision_y));
    } else {
      values[c] = totals[c];
    }
  }
}

// A pixel of the output, all channels of the launch. Neighbours are neighbours in a row. C is what weights are kept in.
template <class In, class Out, class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    output_kernel(Geometry geometry, BoxTable boxes, Tables<C> tables, Statistics statistics,
                  View<const In, 4> image,  // [N, C, H, W]
                  View<Out, 4> output) {    // [N, C, height, width]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t pixels = int64_t{geometry.out_height} * geometry.out_width;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= geometry.batch * pixels) return;
  const int64_t n = index / pixels, set = boxes.boxes ? n : 0;
  const int64_t i = (index - n * pixels) / geometry.out_width, j = (index - n * pixels) % geometry.out_width;
  const int32_t precision_x = tables.precision(set, 0), precision_y = tables.precision(set, 1);
  const bool is_there = precision_x >= 0;
  C values[kChannels] = {};
  if (is_there) {
    const Box box = boxes.box(n);
    resample(image, image.at(n, statistics.first, box.top, box.left), tables.axis(set, 1), tables.axis(set, 0),
             whole_index(i, geometry.window_top, geometry.out_height, box.vertical_flip),
             whole_index(j, geometry.window_left, geometry.out_width, box.horizontal_flip), precision_y, precision_x,
             statistics.count, values);
  }
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    if (c >= statistics.count) continue;
    Out* to = output.at(n, statistics.first + c, i, j);
    if constexpr (sizeof(Out) == 1) {
      store(to, static_cast<Out>(values[c]));
    } else {
      using F = Compute<Out>;
      F number = static_cast<F>(values[c]);
      if constexpr (sizeof(In) == 1) number = statistics.scaled(number);
      number = statistics.apply(number, c);
      store(to, narrow<Out>(is_there ? number : std::numeric_limits<F>::quiet_NaN()));
    }
  }
}

// ---- the gradient of the image --------------------------------------------------------------------------------------

// A pixel of the image: what the outputs that it is in give back to it, in their order.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_image_kernel(Geometry geometry, BoxTable boxes, Tables<Compute<T>> tables, Statistics statistics,
                      View<const T, 4> grad_output,  // [N, C, height, width]
                      View<T, 4> grad_image) {       // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t pixels = geometry.height * geometry.width;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= geometry.batch * pixels) return;
  const int64_t n = index / pixels, set = boxes.boxes ? n : 0;
  const int64_t row = (index - n * pixels) / geometry.width, column = (index - n * pixels) % geometry.width;
  const Box box = boxes.box(n);
  const int64_t y = row - box.top, x = column - box.left;
  const AxisTable<C> columns = tables.axis(set, 0), rows = tables.axis(set, 1);
  Taps by_rows{0, 0}, by_columns{0, 0};
  if (tables.precision(set, 0) >= 0 && y >= 0 && y < box.height && x >= 0 && x < box.width) {
    by_columns = unpacked(load(tables.users + tables.users_before(set, 0) + x));
    by_rows = unpacked(load(tables.users + tables.users_before(set, 1) + y));
  }
  C totals[kChannels] = {};
  for (int32_t i = by_rows.first; i < by_rows.first + by_rows.count; ++i) {
    const int64_t to_i = made_index(i, geometry.window_top, geometry.out_height, box.vertical_flip);
    if (to_i < 0 || to_i >= geometry.out_height) continue;
    C sums[kChannels] = {};
    for (int32_t j = by_columns.first; j < by_columns.first + by_columns.count; ++j) {
      const int64_t to_j = made_index(j, geometry.window_left, geometry.out_width, box.horizontal_flip);
      if (to_j < 0 || to_j >= geometry.out_width) continue;
      const C weight = columns.weight(j, static_cast<int32_t>(x) - columns.taps(j).first);
      const T* grad = grad_output.at(n, statistics.first, to_i, to_j);
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        if (c < statistics.count) sums[c] += weight * widen(load(grad + c * grad_output.strides[1]));
      }
    }
    const C weight = rows.weight(i, static_cast<int32_t>(y) - rows.taps(i).first);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) totals[c] += weight * sums[c];
  }
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    if (c < statistics.count) {
      store(grad_image.at(n, statistics.first + c, row, column), narrow<T>(statistics.apply(totals[c], c)));
    }
  }
}

}  // namespace handgrad::resized_crop
