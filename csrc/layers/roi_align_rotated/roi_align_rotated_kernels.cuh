// The kernels of RoIAlign of rotated boxes on CUDA devices, but for the gradient of the image
// (roi_align_rotated_grad_input.cuh). One for Twice serves the double backward.
//
// In order of appearance: BoxOnDevice, one box with its motion; for_each_point, the
// sampling points of a bin in the image; the output; the gradient of the boxes.
#pragma once

#include <limits>

#include "cuda/reduce.cuh"
#include "kinds/sampled_roi.cuh"
#include "roi_align_rotated_host.h"

namespace handgrad::roi_align_rotated {

using sampled_roi::kOutputChannels;
using sampled_roi::kThreads;
using sampled_roi::Operands;

// The numbers of box k; or of its direction.
template <class C>
__device__ __forceinline__ RotatedBox<C> load_box(const View<const C, 2>& boxes, int32_t k) {
  return {load(boxes.at(k, 1)), load(boxes.at(k, 2)), load(boxes.at(k, 3)), load(boxes.at(k, 4)), load(boxes.at(k, 5))};
}

template <bool Twice, class C>
struct BoxOnDevice : TurnedBox<C> {
  // The index in the batch; -1 if there is none.
  int32_t image;
  Motion<C> motion;

  template <class T>
  __device__ BoxOnDevice(const Geometry& geometry, const Operands<T>& operands, int32_t k)
      : TurnedBox<C>(geometry.turned(load_box(operands.boxes, k))),
        image(geometry.batch_index(load(operands.boxes.at(k, 0)))) {
    if (Twice && operands.v_boxes) motion = Motion<C>(*this, load_box(operands.v_boxes, k));
  }

  // Every bin is NaN.
  __device__ bool is_nan() const { return image < 0 || this->is_nonfinite; }
};

// Calls body(corners, the point's motion, down, right) for the sampling points of bin (p, q) in the image.
template <bool Twice, class C, class Body>
__device__ __forceinline__ void for_each_point(const BoxOnDevice<Twice, C>& box, int32_t p, int32_t q,
                                               const Body& body) {
  const Stretch<C> of_image = box.of_image();
  const Range rows = box.rows.points(p, of_image.row_low, of_image.row_high);
  const Range columns = box.columns.points(q, of_image.column_low, of_image.column_high);
  for (int32_t i = rows.begin; i < rows.end; ++i) {
    const C v = box.rows.point(p, i);
    for (int32_t j = columns.begin; j < columns.end; ++j) {
      const C u = box.columns.point(q, j);
      const Point<C> at = box.point(v, u);
      if (!box.is_inside(at)) continue;
      const Corners<C> corners(at, box.height, box.width);
      const C down = box.rows.along(p, i), right = box.columns.along(q, j);
      body(corners, Twice ? box.motion.of(box, v, u, down, right) : Point<C>{}, down, right);
    }
  }
}

// ---- the output -----------------------------------------------------------------------------------------------------

// Adds what one sampling point gives to a bin, for every `groups`-th channel from `first` on; for Twice, to its change
// along the motion.
template <bool Twice, class T>
__device__ __forceinline__ void add_sample(const Operands<T>& operands, int32_t image, int32_t first, int32_t groups,
                                           int32_t channels, const Corners<Compute<T>>& corners,
                                           const Point<Compute<T>>& motion, Compute<T> (&sums)[kOutputChannels]) {
  using C = Compute<T>;
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const int32_t y = corners.y[q / 2], x = corners.x[q % 2];
    const C weight = corners.weight(q);
    const T* pixel = operands.input.at(image, first, y, x);
    const T* v_pixel = Twice && operands.v_input ? operands.v_input.at(image, first, y, x) : nullptr;
#pragma unroll
    for (int j = 0; j < kOutputChannels; ++j) {
      if (first + j * groups < channels) {
        if constexpr (Twice) {
          const C change = corners.weight_change(q, motion);
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
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    output_kernel(Geometry geometry, Operands<T> operands, int32_t groups, bool channels_last,
                  View<T, 4> output) {  // [K, C, pooled_h, pooled_w]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= geometry.boxes * (groups * geometry.bins())) return;
  const sampled_roi::OutputPlace place(geometry, groups, channels_last, i);
  const int32_t k = place.k, group = place.group, p = place.p, q = place.q;
  const BoxOnDevice<Twice, C> box(geometry, operands, k);
  const bool is_nan = box.is_nan();

  C sums[kOutputChannels];
#pragma unroll
  for (int j = 0; j < kOutputChannels; ++j) sums[j] = is_nan ? std::numeric_limits<C>::quiet_NaN() : C(0);
  if (!is_nan && box.has_points()) {
    for_each_point(box, p, q, [&](const Corners<C>& corners, const Point<C>& motion, C, C) {
      add_sample<Twice>(operands, box.image, group, groups, geometry.channels, corners, motion, sums);
    });
#pragma unroll
    for (int j = 0; j < kOutputChannels; ++j) sums[j] *= box.share();
  }
#pragma unroll
  for (int j = 0; j < kOutputChannels; ++j) {
    const int32_t c = group + j * groups;
    if (c < geometry.channels) store(output.at(k, c, p, q), narrow<T>(sums[j]));
  }
}

// ---- the gradient of the boxes --------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ void load_corners(const View<const T, 4>& image, int32_t n, int32_t c,
                                             const Corners<Compute<T>>& corners, Compute<T> (&pixels)[4]) {
#pragma unroll
  for (int q = 0; q < 4; ++q) pixels[q] = widen(load(image.at(n, c, corners.y[q / 2], corners.x[q % 2])));
}

// Adds what one sampling point gives in one channel; for Twice, how it changes along the motion.
template <bool Twice, class T>
__device__ __forceinline__ void add_derivatives(const Operands<T>& operands, int32_t image, int32_t c,
                                                const Corners<Compute<T>>& corners, const Point<Compute<T>>& motion,
                                                Compute<T> down, Compute<T> right, PointSums<Compute<T>>& sums,
                                                PointSums<Compute<T>>& changes) {
  using C = Compute<T>;
  C pixels[4];
  load_corners(operands.input, image, c, corners, pixels);
  sums.add(corners.slopes(pixels), down, right);
  if constexpr (Twice) {
    const C curvature = corners.curvature(pixels);
    Point<C> change{motion.x * curvature, motion.y * curvature};
    if (operands.v_input) {
      load_corners(operands.v_input, image, c, corners, pixels);
      const Point<C> slopes = corners.slopes(pixels);
      change.y += slopes.y, change.x += slopes.x;
    }
    changes.add(change, down, right);
  }
}

template <class C>
__device__ __forceinline__ void add_scaled(PointSums<double>& totals, const PointSums<C>& sums, C factor) {
  totals.y += factor * sums.y, totals.x += factor * sums.x;
  totals.down_y += factor * sums.down_y, totals.down_x += factor * sums.down_x;
  totals.right_y += factor * sums.right_y, totals.right_x += factor * sums.right_x;
}

// What thread 0 has is the block's.
__device__ __forceinline__ void add_up(PointSums<double>& totals) {
  for (double* total : {&totals.y, &totals.x, &totals.down_y, &totals.down_x, &totals.right_y, &totals.right_x}) {
    *total = block_sum<kThreads>(*total);
    // block_sum's memory is about to be written again.
    __syncthreads();
  }
}

// A block for each box, whose threads have the bins of its channels.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, Twice || sizeof(Compute<T>) == sizeof(double) ? 1 : kMinBlocks)
    grad_boxes_kernel(Geometry geometry, Operands<T> operands,
                      View<const T, 4> grad_output,      // [K, C, pooled_h, pooled_w]
                      View<Compute<T>, 2> grad_boxes) {  // [K, 6]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int32_t k = static_cast<int32_t>(blockIdx.x);
  const int64_t bins = geometry.bins();
  const BoxOnDevice<Twice, C> box(geometry, operands, k);
  const bool has_points = !box.is_nan() && box.has_points();
  PointSums<double> totals, total_changes;
  for (int64_t i = threadIdx.x; has_points && i < geometry.channels * bins; i += kThreads) {
    const int32_t c = static_cast<int32_t>(i / bins);
    const int64_t bin = i - c * bins;
    const int32_t p = static_cast<int32_t>(bin / geometry.pooled_w);
    const int32_t q = static_cast<int32_t>(bin - int64_t{p} * geometry.pooled_w);
    const C grad = widen(load(grad_output.at(k, c, p, q))) * box.share();
    PointSums<C> sums, changes;
    for_each_point(box, p, q, [&](const Corners<C>& corners, const Point<C>& motion, C down, C right) {
      add_derivatives<Twice>(operands, box.image, c, corners, motion, down, right, sums, changes);
    });
    add_scaled(totals, sums, grad);
    if (Twice) add_scaled(total_changes, changes, grad);
  }
  add_up(totals);
  if (Twice) add_up(total_changes);
  if (threadIdx.x != 0) return;
  RotatedBox<double> gradient{};
  if (has_points && Twice) gradient = box_gradient_change(box, box.motion, totals, total_changes);
  if (has_points && !Twice) gradient = box_gradient(box, totals);
  const double numbers[6] = {0, gradient.x, gradient.y, gradient.width, gradient.height, gradient.angle};
#pragma unroll
  for (int d = 0; d < 6; ++d) store(grad_boxes.at(k, d), static_cast<C>(numbers[d]));
}

}  // namespace handgrad::roi_align_rotated
