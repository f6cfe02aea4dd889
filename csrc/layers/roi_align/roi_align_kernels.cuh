// The kernels of RoIAlign on CUDA devices, but for the gradient of the image (roi_align_grad_input.cuh). One for Twice
// serves the double backward.
//
// In order of appearance: BoxOnDevice, one box with its axes and motion; Neighbours,
// the two pixels beside a sampling point on an axis; the output; the gradient of the boxes.
#pragma once

#include <limits>

#include "cuda/reduce.cuh"
#include "kinds/sampled_roi.cuh"
#include "roi_align_host.h"

namespace handgrad::roi_align {

using sampled_roi::kOutputChannels;
using sampled_roi::kThreads;
using sampled_roi::Operands;

// The coordinates of box k; or of its direction.
template <class C>
__device__ __forceinline__ Box<C> load_corners(const View<const C, 2>& boxes, int32_t k) {
  return {load(boxes.at(k, 1)), load(boxes.at(k, 2)), load(boxes.at(k, 3)), load(boxes.at(k, 4))};
}

template <bool Twice, class C>
struct BoxOnDevice {
  BoxAxis<C> axis_h, axis_w;
  // The index in the batch; -1 if there is none.
  int32_t image;
  // How the coordinates move.
  Box<C> v;

  template <class T>
  __device__ BoxOnDevice(const Geometry& geometry, const Operands<T>& operands, int32_t k)
      : BoxOnDevice(geometry, load_corners(operands.boxes, k), load(operands.boxes.at(k, 0))) {
    if (Twice && operands.v_boxes) v = load_corners(operands.v_boxes, k);
  }

  // Every bin is NaN.
  __device__ bool is_nan() const { return image < 0 || axis_h.is_nonfinite || axis_w.is_nonfinite; }

 private:
  __device__ BoxOnDevice(const Geometry& geometry, const Box<C>& box, C batch_index)
      : axis_h(geometry.axis_h(box)), axis_w(geometry.axis_w(box)), image(geometry.batch_index(batch_index)), v{} {}
};

// The rows or columns beside a sampling point, low and high: their weights, and how these change with the coordinates
// and along a motion of them.
template <class C>
struct Neighbours {
  int32_t pixel[2];
  C weight[2], change[2];
  // Of the high one; of the low one it is the negative.
  C d_first, d_second;

  __device__ Neighbours(const BoxAxis<C>& axis, int32_t p, int32_t i, C v_first, C v_second) {
    const AxisSample<C> sample = axis.sample(axis.point(p, i));
    const C share = axis.share();
    pixel[0] = sample.low, pixel[1] = sample.high;
    weight[0] = (1 - sample.weight) * share, weight[1] = sample.weight * share;
    d_first = sample.slope * share * axis.d_first(p, i);
    d_second = sample.slope * share * axis.d_second(p, i);
    change[1] = v_first * d_first + v_second * d_second;
    change[0] = -change[1];
  }
};

// ---- the output -----------------------------------------------------------------------------------------------------

// Adds what one sampling point gives to a bin, for every `groups`-th channel from `first` on; for Twice, to its change
// along the motion.
template <bool Twice, class T>
__device__ __forceinline__ void add_sample(const Operands<T>& operands, int32_t image, int32_t first, int32_t groups,
                                           int32_t channels, const Neighbours<Compute<T>>& row,
                                           const Neighbours<Compute<T>>& column, Compute<T> (&sums)[kOutputChannels]) {
  using C = Compute<T>;
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    const int a = corner / 2, b = corner % 2;
    const C weight = row.weight[a] * column.weight[b];
    const T* pixel = operands.input.at(image, first, row.pixel[a], column.pixel[b]);
    const T* v_pixel =
        Twice && operands.v_input ? operands.v_input.at(image, first, row.pixel[a], column.pixel[b]) : nullptr;
#pragma unroll
    for (int j = 0; j < kOutputChannels; ++j) {
      if (first + j * groups < channels) {
        if constexpr (Twice) {
          const C change = row.change[a] * column.weight[b] + row.weight[a] * column.change[b];
          sums[j] += weight * (v_pixel ? widen(load(v_pixel)) : C(0)) + change * widen(load(pixel));
        } else {
          sums[j] += weight * widen(load(pixel));
        }
      }
      pixel += groups * operands.input.strides[1];
      if (Twice && v_pixel) v_pixel += groups * operands.v_input.strides[1];
    }
  }
}

// The output; for Twice its change along the motion.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, Twice                     ? 1
                                            : sizeof(Compute<T>) == 4 ? 3
                                                                      : kMinBlocks)
    output_kernel(Geometry geometry, Operands<T> operands, int32_t groups, bool channels_last,
                  View<T, 4> output) {  // [K, C, pooled_h, pooled_w]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= geometry.boxes * (groups * geometry.bins())) return;
  const sampled_roi::OutputPlace place(geometry, groups, channels_last, i);
  const int32_t k = place.k, group = place.group, ph = place.p, pw = place.q;
  const BoxOnDevice<Twice, C> box(geometry, operands, k);
  const bool is_nan = box.is_nan();

  C sums[kOutputChannels];
#pragma unroll
  for (int j = 0; j < kOutputChannels; ++j) sums[j] = is_nan ? std::numeric_limits<C>::quiet_NaN() : C(0);
  const int32_t row_end = is_nan ? 0 : box.axis_h.end(ph);
  const int32_t column_begin = box.axis_w.begin(pw), column_end = box.axis_w.end(pw);
  for (int32_t iy = is_nan ? 0 : box.axis_h.begin(ph); iy < row_end; ++iy) {
    const Neighbours<C> row(box.axis_h, ph, iy, box.v.y1, box.v.y2);
    for (int32_t ix = column_begin; ix < column_end; ++ix) {
      const Neighbours<C> column(box.axis_w, pw, ix, box.v.x1, box.v.x2);
      add_sample<Twice>(operands, box.image, group, groups, geometry.channels, row, column, sums);
    }
  }
#pragma unroll
  for (int j = 0; j < kOutputChannels; ++j) {
    const int32_t c = group + j * groups;
    if (c < geometry.channels) store(output.at(k, c, ph, pw), narrow<T>(sums[j]));
  }
}

// ---- the gradient of the boxes --------------------------------------------------------------------------------------

// Adds the derivatives of one channel of a bin with respect to x1, y1, x2 and y2, by one sampling point.
template <bool Twice, class T>
__device__ __forceinline__ void add_derivatives(const Operands<T>& operands, int32_t image, int32_t c,
                                                const Neighbours<Compute<T>>& row, const Neighbours<Compute<T>>& column,
                                                Compute<T> (&sums)[4]) {
  using C = Compute<T>;
  // In each of the two rows: the sum over columns that the row's derivative is of, and in each column likewise.
  C of_row[2] = {}, of_column[2] = {};
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    const int a = corner / 2, b = corner % 2;
    const int32_t y = row.pixel[a], x = column.pixel[b];
    const C pixel = widen(load(operands.input.at(image, c, y, x)));
    if constexpr (Twice) {
      const C v_pixel = operands.v_input ? widen(load(operands.v_input.at(image, c, y, x))) : C(0);
      of_row[a] += column.weight[b] * v_pixel + column.change[b] * pixel;
      of_column[b] += row.weight[a] * v_pixel + row.change[a] * pixel;
    } else {
      of_row[a] += column.weight[b] * pixel;
      of_column[b] += row.weight[a] * pixel;
    }
  }
  sums[0] += column.d_first * (of_column[1] - of_column[0]);
  sums[1] += row.d_first * (of_row[1] - of_row[0]);
  sums[2] += column.d_second * (of_column[1] - of_column[0]);
  sums[3] += row.d_second * (of_row[1] - of_row[0]);
}

// The gradient of one box by a block: the sum over its bins and channels.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, Twice ? 1 : kMinBlocks)
    grad_boxes_kernel(Geometry geometry, Operands<T> operands,
                      View<const T, 4> grad_output,      // [K, C, pooled_h, pooled_w]
                      View<Compute<T>, 2> grad_boxes) {  // [K, 5]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int32_t k = static_cast<int32_t>(blockIdx.x);
  const int64_t bins = geometry.bins();
  const BoxOnDevice<Twice, C> box(geometry, operands, k);
  // x1, y1, x2, y2
  double totals[4] = {};
  const bool is_nan = box.is_nan();
  for (int64_t i = threadIdx.x; !is_nan && i < geometry.channels * bins; i += kThreads) {
    const int32_t c = static_cast<int32_t>(i / bins);
    const int64_t bin = i - c * bins;
    const int32_t ph = static_cast<int32_t>(bin / geometry.pooled_w);
    const int32_t pw = static_cast<int32_t>(bin - int64_t{ph} * geometry.pooled_w);
    const C grad = widen(load(grad_output.at(k, c, ph, pw)));
    const int32_t row_end = box.axis_h.end(ph), column_begin = box.axis_w.begin(pw), column_end = box.axis_w.end(pw);
    C sums[4] = {};
    for (int32_t iy = box.axis_h.begin(ph); iy < row_end; ++iy) {
      const Neighbours<C> row(box.axis_h, ph, iy, box.v.y1, box.v.y2);
      for (int32_t ix = column_begin; ix < column_end; ++ix) {
        const Neighbours<C> column(box.axis_w, pw, ix, box.v.x1, box.v.x2);
        add_derivatives<Twice>(operands, box.image, c, row, column, sums);
      }
    }
    for (int d = 0; d < 4; ++d) totals[d] += static_cast<double>(grad * sums[d]);
  }
  if (threadIdx.x == 0) store(grad_boxes.at(k, 0), C(0));
  for (int d = 0; d < 4; ++d) {
    const double total = block_sum<kThreads>(totals[d]);
    if (threadIdx.x == 0) store(grad_boxes.at(k, d + 1), static_cast<C>(total));
    // block_sum's memory is about to be written again.
    __syncthreads();
  }
}

}  // namespace handgrad::roi_align
