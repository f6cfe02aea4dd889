// The kernels of resized_crop on CUDA devices.
//
// In order of appearance: Tables, the taps of all of them; the kernel that makes them; the output;
// the gradient of the image.
#pragma once

#include <limits>

#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "resized_crop_host.h"

namespace handgrad::resized_crop {

inline constexpr int kThreads = 256;
// Channels that one launch normalises: their numbers are parameters of the kernel.
inline constexpr int kChannels = 8;

// The taps of an axis of one box, in global memory.
template <class C>
struct AxisTable {
  const C* weights;        // [outputs, most]
  const int64_t* windows;  // [outputs]
  int64_t most;

  __device__ Taps taps(int64_t o) const {
    const int64_t window = load(windows + o);
    return {static_cast<int32_t>(window >> 32), static_cast<int32_t>(window & 0xffffffff)};
  }
  __device__ C weight(int64_t o, int32_t k) const { return load(weights + o * most + k); }
  // The outputs that pixel `pixel` of the crop is in, [begin, end): windows are in order.
  __device__ void outputs_of(int32_t pixel, int32_t outputs, int32_t& begin, int32_t& end) const {
    begin = search(outputs, [&](const Taps& own) { return own.first + own.count > pixel; });
    end = search(outputs, [&](const Taps& own) { return own.first > pixel; });
  }

 private:
  template <class Reached>
  __device__ int32_t search(int32_t outputs, const Reached& reached) const {
    int32_t low = 0, high = outputs;
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      if (reached(taps(middle))) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

// Those of both axes, columns and rows, of `sets` boxes.
template <class C>
struct Tables {
  double* exact;     // [sets, outputs of both, most]
  C* weights;        // the same
  int64_t* windows;  // [sets, outputs of both and two more]: the last of an axis is its precision, -1 for no box
  int64_t outputs[2], most[2];

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

// What an output is in the end, for the channels from `first` on.
struct Statistics {
  double mean[kChannels], std[kChannels];
  int32_t first, count;
  bool normalises;

  template <class F>
  HANDGRAD_MATH F apply(F value, int32_t c) const {
    return normalises ? (value - static_cast<F>(mean[c])) / static_cast<F>(std[c]) : value;
  }
};

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
    store(windows + o, int64_t{taps.first} << 32 | taps.count);
  }
  largest_of[threadIdx.x] = largest;
  __syncthreads();
  for (int t = 0; t < kThreads; ++t) largest = largest_of[t] > largest ? largest_of[t] : largest;
  const int32_t precision = precision_of(largest);
  for (int64_t o = threadIdx.x; o < outputs; o += kThreads) {
    const int32_t count = static_cast<int32_t>(load(windows + o) & 0xffffffff);
    for (int32_t k = 0; k < count; ++k) {
      const double weight = load(exact + o * most + k);
      store(weights + o * most + k,
            of_levels ? static_cast<C>(integer_weight(weight, precision)) : static_cast<C>(weight));
    }
  }
  if (threadIdx.x == 0) store(windows + outputs, int64_t{precision});
}

// ---- the output -----------------------------------------------------------------------------------------------------

// A sum of levels, rounded to a level.
HANDGRAD_MATH int32_t level_of(int32_t sum, int32_t precision) {
  const int32_t level = sum >> precision;
  return level < 0 ? 0 : level > 255 ? 255 : level;
}

// Output pixel (i, j) of a channel that begins at `crop`; for uint8 a level.
template <class In, class C>
__device__ __forceinline__ C resampled(const View<const In, 4>& image, const In* crop, const AxisTable<C>& rows,
                                       const AxisTable<C>& columns, int64_t i, int64_t j, int32_t precision_y,
                                       int32_t precision_x) {
  const Taps own_rows = rows.taps(i), own_columns = columns.taps(j);
  const In* corner = crop + own_rows.first * image.strides[2] + own_columns.first * image.strides[3];
  if constexpr (sizeof(In) == 1) {
    int32_t total = 1 << (precision_y - 1);
    for (int32_t y = 0; y < own_rows.count; ++y) {
      int32_t sum = 1 << (precision_x - 1);
      for (int32_t x = 0; x < own_columns.count; ++x) {
        const int32_t pixel = load(corner + y * image.strides[2] + x * image.strides[3]);
        sum += pixel * static_cast<int32_t>(columns.weight(j, x));
      }
      total += level_of(sum, precision_x) * static_cast<int32_t>(rows.weight(i, y));
    }
    return static_cast<C>(level_of(total, precision_y));
  } else {
    C total = 0;
    for (int32_t y = 0; y < own_rows.count; ++y) {
      C sum = 0;
      for (int32_t x = 0; x < own_columns.count; ++x) {
        sum += columns.weight(j, x) * widen(load(corner + y * image.strides[2] + x * image.strides[3]));
      }
      total += rows.weight(i, y) * sum;
    }
    return total;
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
  const Box box = boxes.box(n);
  const AxisTable<C> columns = tables.axis(set, 0), rows = tables.axis(set, 1);
  const int64_t from_i = box.vertical_flip ? geometry.out_height - 1 - i : i;
  const int64_t from_j = box.horizontal_flip ? geometry.out_width - 1 - j : j;
  for (int32_t c = statistics.first; c < statistics.first + statistics.count; ++c) {
    C value = 0;
    if (is_there) {
      const In* crop = image.at(n, c, box.top, box.left);
      value = resampled(image, crop, rows, columns, from_i, from_j, precision_y, precision_x);
    }
    if constexpr (sizeof(Out) == 1) {
      store(output.at(n, c, i, j), static_cast<Out>(value));
    } else {
      using F = Compute<Out>;
      F number = static_cast<F>(value);
      if constexpr (sizeof(In) == 1) number = rounded_product(number, static_cast<F>(1.0 / 255));
      number = statistics.apply(number, c - statistics.first);
      store(output.at(n, c, i, j), narrow<Out>(is_there ? number : std::numeric_limits<F>::quiet_NaN()));
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
  int32_t i_begin = 0, i_end = 0, j_begin = 0, j_end = 0;
  if (tables.precision(set, 0) >= 0 && y >= 0 && y < box.height && x >= 0 && x < box.width) {
    rows.outputs_of(static_cast<int32_t>(y), geometry.out_height, i_begin, i_end);
    columns.outputs_of(static_cast<int32_t>(x), geometry.out_width, j_begin, j_end);
  }
  for (int32_t c = statistics.first; c < statistics.first + statistics.count; ++c) {
    C total = 0;
    for (int32_t i = i_begin; i < i_end; ++i) {
      const int64_t to_i = box.vertical_flip ? geometry.out_height - 1 - i : i;
      C sum = 0;
      for (int32_t j = j_begin; j < j_end; ++j) {
        const int64_t to_j = box.horizontal_flip ? geometry.out_width - 1 - j : j;
        const C weight = columns.weight(j, static_cast<int32_t>(x) - columns.taps(j).first);
        sum += weight * widen(load(grad_output.at(n, c, to_i, to_j)));
      }
      total += rows.weight(i, static_cast<int32_t>(y) - rows.taps(i).first) * sum;
    }
    store(grad_image.at(n, c, row, column), narrow<T>(statistics.apply(total, c - statistics.first)));
  }
}

}  // namespace handgrad::resized_crop
