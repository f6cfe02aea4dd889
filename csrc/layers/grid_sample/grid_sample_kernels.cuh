// The kernels of grid_sample on CUDA devices, but for the gradient of the input (grid_sample_grad_input.cuh). One for
// Twice serves the double backward.
//
// In order of appearance: Operands, the tensors of a call; Point, one of the grid; the output; the gradient of the
// grid.
#pragma once

#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "grid_sample_host.h"

namespace handgrad::grid_sample {

inline constexpr int kThreads = 128;
// Channels of a thread: as many loads are under way together.
inline constexpr int kChannels = 8;

// What is differentiated, and how it moves (Twice only; what is null stands still).
template <class T>
struct Operands {
  Axis<Compute<T>> axes[3];
  View<const T, 3> input, v_input;         // [N, C, pixels]
  View<const Compute<T>, 3> grid, v_grid;  // [N, points, axes]
};

// ---- a point of the grid --------------------------------------------------------------------------------------------

template <class C>
struct Point {
  Spot<C> spots[3];
  // The direction: of x, y, z.
  C v[3];

  template <bool Twice, class T>
  __device__ static Point at(const Geometry& geometry, const Operands<T>& operands, int64_t n, int64_t p) {
    Point point{};
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      if (d + geometry.axes < 3) continue;
      const int a = geometry.coordinate(d);
      point.spots[d] = spot_of(operands.axes[d], geometry.mode, geometry.padding, load(operands.grid.at(n, p, a)));
      if (Twice && operands.v_grid) point.v[a] = load(operands.v_grid.at(n, p, a));
    }
    return point;
  }

  // Along the axis d. An axis that no coordinate belongs to has one pixel.
  template <class T>
  __device__ AxisTap<C> tap(const Geometry& geometry, const Operands<T>& operands, int d, int k) const {
    if (d + geometry.axes < 3) return {C(0), {C(1), C(0), C(0)}};
    return axis_tap(operands.axes[d], geometry.mode, geometry.padding, spots[d], k);
  }

  // body(index of the pixel, TapProduct) for the taps that are pixels of the image. NaN, of which there is none, gives
  // all weights to what is read nowhere: the result is the sum of `lost` then.
  template <class T, class Body>
  __device__ C for_each_tap(const Geometry& geometry, const Operands<T>& operands, const Body& body) const {
    C lost = 0;
#pragma unroll 1
    for (int kz = 0; kz < geometry.taps(0); ++kz) {
      const AxisTap<C> z = tap(geometry, operands, 0, kz);
#pragma unroll 1
      for (int ky = 0; ky < geometry.taps(1); ++ky) {
        const AxisTap<C> y = tap(geometry, operands, 1, ky);
#pragma unroll 1
        for (int kx = 0; kx < geometry.taps(2); ++kx) {
          const AxisTap<C> x = tap(geometry, operands, 2, kx);
          const TapProduct<C> product{x.weight, y.weight, z.weight};
          if (x.pixel < 0 || y.pixel < 0 || z.pixel < 0) {
            lost += product.value() * 0;
            continue;
          }
          const int64_t row = static_cast<int64_t>(z.pixel) * geometry.size[1] + static_cast<int64_t>(y.pixel);
          body(row * geometry.size[2] + static_cast<int64_t>(x.pixel), product);
        }
      }
    }
    return lost;
  }
};

// ---- the output -----------------------------------------------------------------------------------------------------

// The output; for Twice its change along the motion. A thread has a point and some channels, `groups` apart, so that
// neighbouring threads read what are neighbours in memory: points, or channels.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    output_kernel(Geometry geometry, Operands<T> operands, int64_t groups, bool channels_innermost,
                  View<T, 3> output) {  // [N, C, points]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= geometry.batch * groups * geometry.points) return;
  const int64_t inner = channels_innermost ? groups : geometry.points, rest = i / inner, last = i - rest * inner;
  const int64_t outer = channels_innermost ? geometry.points : groups;
  const int64_t n = rest / outer, middle = rest - n * outer;
  const int64_t first = channels_innermost ? last : middle, p = channels_innermost ? middle : last;
  const Point<C> point = Point<C>::template at<Twice>(geometry, operands, n, p);
  C sums[kChannels] = {};
  const C lost = point.for_each_tap(geometry, operands, [&](int64_t pixel, const TapProduct<C>& tap) {
    const C weight = tap.value(), change = Twice ? tap.change(point.v[0], point.v[1], point.v[2]) : weight;
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      const int64_t c = first + j * groups;
      if (c >= geometry.channels) continue;
      sums[j] += change * widen(load_constant(operands.input.at(n, c, pixel)));
      if (Twice && operands.v_input) sums[j] += weight * widen(load_constant(operands.v_input.at(n, c, pixel)));
    }
  });
#pragma unroll
  for (int j = 0; j < kChannels; ++j) {
    const int64_t c = first + j * groups;
    if (c < geometry.channels) store(output.at(n, c, p), narrow<T>(sums[j] + lost));
  }
}

// ---- the gradient of the grid ---------------------------------------------------------------------------------------

// A thread has a point, and goes through its channels in their order.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_grid_kernel(Geometry geometry, Operands<T> operands, View<const T, 3> grad_output,  // [N, C, points]
                     View<Compute<T>, 3> grad_grid) {                                        // [N, points, axes]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= geometry.batch * geometry.points) return;
  const int64_t n = i / geometry.points, p = i - n * geometry.points;
  const Point<C> point = Point<C>::template at<Twice>(geometry, operands, n, p);
  const C vx = point.v[0], vy = point.v[1], vz = point.v[2];
  C sum_x = 0, sum_y = 0, sum_z = 0;
#pragma unroll 1
  for (int64_t first = 0; first < geometry.channels; first += kChannels) {
    C grads[kChannels];
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      const int64_t c = first + j;
      grads[j] = c < geometry.channels ? widen(load_constant(grad_output.at(n, c, p))) : C(0);
    }
    const C lost = point.for_each_tap(geometry, operands, [&](int64_t pixel, const TapProduct<C>& tap) {
      C sum = 0, v_sum = 0;
#pragma unroll
      for (int j = 0; j < kChannels; ++j) {
        const int64_t c = first + j;
        if (c >= geometry.channels) continue;
        sum += grads[j] * widen(load_constant(operands.input.at(n, c, pixel)));
        if (Twice && operands.v_input) v_sum += grads[j] * widen(load_constant(operands.v_input.at(n, c, pixel)));
      }
      if constexpr (Twice) {
        sum_x += tap.slope_x_change(vx, vy, vz) * sum, sum_y += tap.slope_y_change(vx, vy, vz) * sum;
        sum_z += tap.slope_z_change(vx, vy, vz) * sum;
      }
      const C of_slopes = Twice ? v_sum : sum;
      if (Twice && !operands.v_input) return;
      sum_x += tap.slope_x() * of_slopes, sum_y += tap.slope_y() * of_slopes, sum_z += tap.slope_z() * of_slopes;
    });
    sum_x += lost, sum_y += lost, sum_z += lost;
  }
  store(grad_grid.at(n, p, 0), sum_x);
  store(grad_grid.at(n, p, 1), sum_y);
  if (geometry.axes == 3) store(grad_grid.at(n, p, 2), sum_z);
}

}  // namespace handgrad::grid_sample
