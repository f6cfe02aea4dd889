// The kernels of warp's derivatives on CUDA devices; the others are cuda/image_sample.cuh's.
//
// In order of appearance: the outputs that a pixel may be read by; the gradient of the image; that of the matrix.
#pragma once

#include "cuda/image_sample.cuh"
#include "cuda/reduce.cuh"
#include "warp_host.h"

namespace handgrad::warp {

// Of an image's sum for the matrix: blocks, and the warps of all of them, each with a sum of its own.
inline constexpr int kSumBlocks = 32;
inline constexpr int kSumWarps = kSumBlocks * kSlopeThreads / kWarpSize;

// ---- the outputs that a pixel may be read by ------------------------------------------------------------------------

struct Window {
  int64_t top, bottom, left, right;
};

// The inverse of the matrix takes the square around a pixel, wherein it is a corner, to a quadrilateral of the output,
// which a window surrounds. Whoever lies in the window is asked; so it may be too large, up to the whole output where
// the matrix has no inverse or the division changes its sign.
template <class C>
class Inverse {
 public:
  __device__ Inverse(const Frame& frame, const Matrix<C>& matrix) : frame_(frame) {
    for (int k = 0; k < 9; ++k) of_[k] = static_cast<double>(matrix.of[k]);
    if (!frame.projective) of_[6] = of_[7] = 0, of_[8] = 1;
  }

  __device__ Window window(int64_t row, int64_t column) const {
    const Window whole{0, frame_.out_height, 0, frame_.out_width};
    Corners corners(*this, row, column, 1.5);
    const double divisor = absolute(corners.determinant) / corners.largest;
    const double error = error_bound(divisor);
    if (!corners.is_one_sided || !(error < 0.5)) return whole;
    corners = Corners(*this, row, column, (frame_.bilinear ? 1.0 : 0.5) + error);
    const double shift_x = frame_.centered ? 0.5 * static_cast<double>(frame_.out_width - 1) : -0.5;
    const double shift_y = frame_.centered ? 0.5 * static_cast<double>(frame_.out_height - 1) : -0.5;
    Window window;
    clip(corners.low[0] + shift_x, corners.high[0] + shift_x, frame_.out_width, window.left, window.right);
    clip(corners.low[1] + shift_y, corners.high[1] + shift_y, frame_.out_height, window.top, window.bottom);
    return window;
  }

 private:
  Frame frame_;
  double of_[9];

  struct Corners {
    double low[2], high[2], determinant, largest;
    bool is_one_sided;

    __device__ Corners(const Inverse& by, int64_t row, int64_t column, double reach) {
      const double *a = by.of_, *d = by.of_ + 3, *g = by.of_ + 6;
      const double inverse[9] = {d[1] * g[2] - d[2] * g[1], a[2] * g[1] - a[1] * g[2], a[1] * d[2] - a[2] * d[1],
                                 d[2] * g[0] - d[0] * g[2], a[0] * g[2] - a[2] * g[0], a[2] * d[0] - a[0] * d[2],
                                 d[0] * g[1] - d[1] * g[0], a[1] * g[0] - a[0] * g[1], a[0] * d[1] - a[1] * d[0]};
      determinant = a[0] * inverse[0] + a[1] * inverse[3] + a[2] * inverse[6];
      const double terms = absolute(a[0] * d[1] * g[2]) + absolute(a[1] * d[0] * g[2]) + absolute(a[0] * d[2] * g[1]) +
                           absolute(a[1] * d[2] * g[0]) + absolute(a[2] * d[0] * g[1]) + absolute(a[2] * d[1] * g[0]);
      is_one_sided = absolute(determinant) > 1e-7 * terms;
      largest = 0;
      bool is_negative = false;
      for (int corner = 0; corner < 4; ++corner) {
        const double x = static_cast<double>(column) + 0.5 + (corner % 2 ? reach : -reach);
        const double y = static_cast<double>(row) + 0.5 + (corner / 2 ? reach : -reach);
        const double back = by.frame_.centered ? 1 : 0;
        const double u = x / (0.5 * static_cast<double>(by.frame_.width)) - back;
        const double v = y / (0.5 * static_cast<double>(by.frame_.height)) - back;
        const double w = inverse[6] * u + inverse[7] * v + inverse[8];
        const double sizes = absolute(inverse[6] * u) + absolute(inverse[7] * v) + absolute(inverse[8]);
        is_one_sided = is_one_sided && absolute(w) > 1e-7 * sizes && (corner == 0 || (w < 0) == is_negative);
        is_negative = w < 0;
        largest = absolute(w) > largest ? absolute(w) : largest;
        for (int k = 0; k < 2; ++k) {
          const double at = (inverse[3 * k] * u + inverse[3 * k + 1] * v + inverse[3 * k + 2]) / w;
          low[k] = corner == 0 || at < low[k] ? at : low[k];
          high[k] = corner == 0 || at > high[k] ? at : high[k];
        }
      }
    }
  };

  // How far from it, in pixels of the image, a position may be computed, where what is divided by is this or more.
  __device__ double error_bound(double divisor) const {
    const double step = 8.0 * static_cast<double>(std::numeric_limits<C>::epsilon());
    const double width = static_cast<double>(frame_.width), height = static_cast<double>(frame_.height);
    const auto largest = [&](int row) {
      return absolute(of_[3 * row]) * static_cast<double>(frame_.out_width) +
             absolute(of_[3 * row + 1]) * static_cast<double>(frame_.out_height) + absolute(of_[3 * row + 2]);
    };
    const double above = largest(0) * width + largest(1) * height, below = largest(2);
    return step * (above / divisor + (width + height) * (1 + below / divisor));
  }

  __device__ static void clip(double low, double high, int64_t size, int64_t& begin, int64_t& end) {
    const double last = static_cast<double>(size);
    low = ::floor(low - 0.01), high = ::ceil(high + 0.01) + 1;
    begin = low > 0 ? static_cast<int64_t>(low < last ? low : last) : 0;
    end = high > 0 ? static_cast<int64_t>(high < last ? high : last) : 0;
  }
};

// ---- the gradient of the image --------------------------------------------------------------------------------------

// A pixel of the image: what the outputs that are read there give back to it, in their order.
template <class T, class N>
__global__ void __launch_bounds__(kSlopeThreads, kMinBlocks)
    grad_image_kernel(Places places, Surroundings around, View<const T, 4> grad_output,  // [N, C, height, width]
                      View<T, 4> grad_image) {                                           // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kSlopeThreads);
  using C = Plain<N>;
  const Frame& frame = places.frame;
  const int64_t index = int64_t{blockIdx.x} * kSlopeThreads + threadIdx.x;
  if (index >= frame.batch * frame.height * frame.width) return;
  const ImagePixel pixel(frame.height, frame.width, index);
  const ImagePlaces<N> of_image = places.of_image<N>(pixel.n);
  const Window window = Inverse<C>(frame, places.table.matrix<C>(frame, pixel.n)).window(pixel.i, pixel.j);
  double totals[kChannels] = {};
  for (int64_t i = window.top; i < window.bottom; ++i) {
    for (int64_t j = window.left; j < window.right; ++j) {
      const ImageSample<N> sample(frame, of_image.point(i, j));
      add_given(frame, around, sample, pixel.i, pixel.j, grad_output, pixel.n, i, j, totals);
    }
  }
  store_given(around, totals, pixel, grad_image);
}

// ---- the gradient of the matrix -------------------------------------------------------------------------------------

// Each warp sums some pixels of the output of an image; so that no block waits, its sum is stored by itself.
template <class T, class N>
__global__ void __launch_bounds__(kSlopeThreads, kMinBlocks)
    grad_matrix_kernel(Places places, Surroundings around, View<const T, 4> image,  // [N, C, H, W]
                       View<const T, 4> direction,                                  // [N, C, H, W]
                       View<const T, 4> grad_output,                                // [N, C, height, width]
                       double* partial) {                                           // [N, kSumWarps, 9]
  HANDGRAD_LAUNCH_BOUNDS(kSlopeThreads);
  using C = Plain<N>;
  const Frame& frame = places.frame;
  const int64_t n = blockIdx.x / kSumBlocks, pixels = frame.out_height * frame.out_width;
  const ImagePlaces<N> of_image = places.of_image<N>(n);
  const int64_t first = int64_t{blockIdx.x % kSumBlocks} * kSlopeThreads + threadIdx.x;
  double sums[9] = {};
#pragma unroll 1
  for (int64_t index = first; index < pixels; index += int64_t{kSumBlocks} * kSlopeThreads) {
    const int64_t i = index / frame.out_width, j = index - i * frame.out_width;
    const C x = frame.base<C>(j, frame.out_width), y = frame.base<C>(i, frame.out_height);
    const Position<N> at = of_image.point(i, j);
    const ImageSample<N> sample(frame, at);
    if (!sample.corners || !frame.bilinear) continue;
    Point<N> grad{N(0), N(0)};
    add_of_point(frame, around, sample, image, direction, grad_output, n, i, j, grad);
    pull_back(frame, at, x, y, grad.x, grad.y, sums);
  }
  const int64_t warp = (int64_t{blockIdx.x} * kSlopeThreads + threadIdx.x) / kWarpSize;
#pragma unroll
  for (int k = 0; k < 9; ++k) {
    const double sum = warp_sum(sums[k]);
    if (threadIdx.x % kWarpSize == 0) store(partial + warp * 9 + k, sum);
  }
}

// A number of the gradient of a matrix: the sums of all launches, of all warps, in their order.
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sum_matrix_kernel(int64_t images, int64_t launches, int64_t rows, const double* partial,
                      View<double, 3> grad_matrix) {  // [N, 2 or 3, 3]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= images * rows * 3) return;
  const int64_t n = index / (rows * 3), k = index - n * rows * 3;
  double total = 0;
  for (int64_t launch = 0; launch < launches; ++launch) {
    const double* of_image = partial + (launch * images + n) * kSumWarps * 9 + k;
#pragma unroll 8
    for (int warp = 0; warp < kSumWarps; ++warp) total += load(of_image + warp * 9);
  }
  store(grad_matrix.at(n, k / 3, k % 3), total);
}

}  // namespace handgrad::warp
