// The kernels of ops that read an image between its pixels (math/image_sample.h), wherever they say: a thread has a
// pixel of the output, in the arithmetic of the CPU, so that levels are the same. A launch has a few channels.
//
// In order of appearance: what surrounds an image; a pixel, and the corners of a sample; the output; what is
// differentiated along a direction; what pixels give back; launches.
#pragma once

#include "abi/images.h"
#include "abi/view.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "math/image_sample.h"

namespace handgrad::image_sample {

inline constexpr int kThreads = 256;
// Of derivatives, a thread of which needs more registers.
inline constexpr int kSlopeThreads = 128;
// Channels of one launch.
inline constexpr int kChannels = 4;

// ---- what surrounds an image ----------------------------------------------------------------------------------------

// Of the channels of a launch.
struct Surroundings {
  int32_t first, count;
  double fill[kChannels];
};

// body(surroundings) for a few channels at a time.
template <class Body>
void for_channels(const ImageFrame& frame, const std::vector<double>& fill, const Body& body) {
  for (int64_t first = 0; first < frame.channels; first += kChannels) {
    const int64_t count = std::min<int64_t>(kChannels, frame.channels - first);
    Surroundings around{static_cast<int32_t>(first), static_cast<int32_t>(count), {}};
    for (int64_t c = 0; c < count; ++c) around.fill[c] = fill_of(fill, first + c);
    body(around);
  }
}

// ---- a pixel --------------------------------------------------------------------------------------------------------

// Of an image of so many rows and columns, from the index of a thread.
struct ImagePixel {
  int64_t n, i, j;

  __device__ ImagePixel(int64_t height, int64_t width, int64_t index) {
    const int64_t pixels = height * width;
    n = index / pixels, i = (index - n * pixels) / width, j = (index - n * pixels) % width;
  }
};

// Reads the corners of a sample in a channel, with the direction of each.
template <class T, class N>
struct CornerReader {
  using C = Plain<N>;
  const T *image, *direction;
  int64_t image_strides[2], direction_strides[2];

  __device__ CornerReader(const View<const T, 4>& of, const View<const T, 4>& along, int64_t n, int64_t c, int64_t row,
                          int64_t column)
      : image(of.at(n, c, row, column)),
        direction(along ? along.at(n, c, row, column) : nullptr),
        image_strides{of.strides[2], of.strides[3]},
        direction_strides{along.strides[2], along.strides[3]} {}

  __device__ N operator()(int q) const {
    const C value = widen(load_constant(image + q / 2 * image_strides[0] + q % 2 * image_strides[1]));
    if constexpr (std::is_same_v<N, C>) {
      return value;
    } else {
      if (!direction) return N(value);
      return {value, widen(load_constant(direction + q / 2 * direction_strides[0] + q % 2 * direction_strides[1]))};
    }
  }
};

// ---- the output -----------------------------------------------------------------------------------------------------

template <class T, class Places>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    output_kernel(ImageFrame frame, Places places, Surroundings around, View<const T, 4> image,  // [N, C, H, W]
                  View<T, 4> output) {  // [N, C, height, width]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= frame.batch * frame.out_height * frame.out_width) return;
  const ImagePixel pixel(frame.out_height, frame.out_width, index);
  const ImageSample<C> sample(frame, places.template of_image<C>(pixel.n).point(pixel.i, pixel.j));
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    if (c >= around.count) continue;
    const T* corner = image.at(pixel.n, around.first + c, sample.row, sample.column);
    const C value = sample.value(frame, [&](int q) {
      return Element<T>::read(load_constant(corner + q / 2 * image.strides[2] + q % 2 * image.strides[3]));
    });
    store(output.at(pixel.n, around.first + c, pixel.i, pixel.j),
          Element<T>::made(sample.filled(frame, value, static_cast<C>(around.fill[c]))));
  }
}

// ---- what is differentiated along a direction -----------------------------------------------------------------------

template <class T, class Places>
__global__ void __launch_bounds__(kSlopeThreads, kMinBlocks)
    grad_grad_output_kernel(ImageFrame frame, Places places, Surroundings around,
                            View<const T, 4> image,         // [N, C, H, W]
                            View<const T, 4> direction,     // [N, C, H, W]
                            View<T, 4> grad_grad_output) {  // [N, C, height, width]
  HANDGRAD_LAUNCH_BOUNDS(kSlopeThreads);
  using C = Compute<T>;
  using N = Dual<C>;
  const int64_t index = int64_t{blockIdx.x} * kSlopeThreads + threadIdx.x;
  if (index >= frame.batch * frame.out_height * frame.out_width) return;
  const ImagePixel pixel(frame.out_height, frame.out_width, index);
  const ImageSample<N> sample(frame, places.template of_image<N>(pixel.n).point(pixel.i, pixel.j));
#pragma unroll 1
  for (int c = 0; c < around.count; ++c) {
    const CornerReader<T, N> corners(image, direction, pixel.n, around.first + c, sample.row, sample.column);
    const N made = sample.filled(frame, sample.value(frame, corners), N(static_cast<C>(around.fill[c])));
    store(grad_grad_output.at(pixel.n, around.first + c, pixel.i, pixel.j), narrow<T>(wanted_of(made)));
  }
}

// ---- what pixels give back ------------------------------------------------------------------------------------------

// What an output that is read by `sample` gives to pixel (row, column); in double, as there may be many.
template <class T, class N>
__device__ void add_given(const ImageFrame& frame, const Surroundings& around, const ImageSample<N>& sample,
                          int64_t row, int64_t column, const View<const T, 4>& grad_output, int64_t n, int64_t i,
                          int64_t j, double (&totals)[kChannels]) {
  const int64_t down = row - sample.row, right = column - sample.column;
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    if (down != q / 2 || right != q % 2 || !sample.has(q)) continue;
    const Plain<N> share = wanted_of(sample.share(frame, q));
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      if (c < around.count) totals[c] += double{share * widen(load(grad_output.at(n, around.first + c, i, j)))};
    }
  }
}

template <class T>
__device__ void store_given(const Surroundings& around, const double (&totals)[kChannels], const ImagePixel& pixel,
                            const View<T, 4>& grad_image) {
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    if (c < around.count)
      store(grad_image.at(pixel.n, around.first + c, pixel.i, pixel.j), narrow<T>(static_cast<Compute<T>>(totals[c])));
  }
}

// The gradient of the point that a pixel of the output is read at: of the channels of a launch.
template <class T, class N>
__device__ void add_of_point(const ImageFrame& frame, const Surroundings& around, const ImageSample<N>& sample,
                             const View<const T, 4>& image, const View<const T, 4>& direction,
                             const View<const T, 4>& grad_output, int64_t n, int64_t i, int64_t j, Point<N>& grad) {
  using C = Plain<N>;
#pragma unroll 1
  for (int c = 0; c < around.count; ++c) {
    const CornerReader<T, N> corners(image, direction, n, around.first + c, sample.row, sample.column);
    sample.add_of_position(frame, N(widen(load_constant(grad_output.at(n, around.first + c, i, j)))),
                           N(static_cast<C>(around.fill[c])), corners, grad.x, grad.y);
  }
}

// ---- launches -------------------------------------------------------------------------------------------------------

template <class T, class Places>
void launch_output(const char* name, const ImageFrame& frame, const Places& places, const std::vector<double>& fill,
                   const Tensor& image, const Tensor& output) {
  const DeviceOf device(image);
  for_channels(frame, fill, [&](const Surroundings& around) {
    launch(name, output_kernel<T, Places>, device,
           blocks_for(frame.batch * frame.out_height * frame.out_width, kThreads), frame, places, around,
           view<T, 4>(image), mutable_view<T, 4>(output));
  });
}

template <class T, class Places>
void launch_grad_grad_output(const char* name, const ImageFrame& frame, const Places& places,
                             const std::vector<double>& fill, const Tensor& image,
                             const std::optional<Tensor>& direction, const Tensor& grad_grad_output) {
  const DeviceOf device(image);
  for_channels(frame, fill, [&](const Surroundings& around) {
    launch(name, grad_grad_output_kernel<T, Places>, device,
           blocks_for(frame.batch * frame.out_height * frame.out_width, kSlopeThreads), frame, places, around,
           view<T, 4>(image), view<T, 4>(direction), mutable_view<T, 4>(grad_grad_output));
  });
}

}  // namespace handgrad::image_sample
