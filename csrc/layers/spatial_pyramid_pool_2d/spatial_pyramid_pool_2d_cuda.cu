// A spatial pyramid pooling on CUDA devices.
//
// A block has a channel of an image, and its warps bins of it, one after the other, so that all levels are read while
// the plane is in the first-level cache. Lanes have neighbouring pixels. Backward, where the largest pixels of all bins
// are is found first, in shared memory; then each pixel adds up what the bins that it is in have for it: each gradient
// is one thread's, in one order.
#include "abi/registration.h"
#include "abi/view.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "spatial_pyramid_pool_2d_host.h"

namespace handgrad::spatial_pyramid_pool_2d {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

// A bin of a level, and where its output is.
struct Bin {
  int32_t top, bottom, left, right;
  int64_t output;

  // Bins of all levels are counted through.
  __device__ Bin(const Geometry& geometry, int64_t channel, int32_t index) {
    int64_t l = 0, before = 0;
    while (index >= geometry.levels[l] * geometry.levels[l]) {
      const int64_t bins = geometry.levels[l++];
      index -= static_cast<int32_t>(bins * bins);
      before += geometry.channels * bins * bins;
    }
    const int64_t level = geometry.levels[l], i = index / level, j = index - i * level;
    top = static_cast<int32_t>(bin_begin(i, level, geometry.height));
    bottom = static_cast<int32_t>(bin_end(i, level, geometry.height));
    left = static_cast<int32_t>(bin_begin(j, level, geometry.width));
    right = static_cast<int32_t>(bin_end(j, level, geometry.width));
    output = before + channel * level * level + index;
  }
  __device__ int32_t width() const { return right - left; }
  __device__ int32_t area() const { return (bottom - top) * (right - left); }
};

// What a bin is, of the pixels of a plane, for the threads of a warp: the largest, and its number in the plane, or the
// mean. The result is lane 0's.
template <class T, bool Average>
__device__ Compute<T> warp_pool(const Bin& bin, const T* plane, int64_t row_step, int64_t column_step, int32_t width,
                                int32_t& where) {
  using C = Compute<T>;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % kWarpSize, area = bin.area();
  C result = 0;
  where = -1;
  for (int32_t k = lane; k < area; k += kWarpSize) {
    const int32_t y = bin.top + k / bin.width(), x = bin.left + k % bin.width();
    const C pixel = widen(load_constant(plane + y * row_step + x * column_step));
    if constexpr (Average) {
      result += pixel;
    } else if (where < 0 || replaces(pixel, result)) {
      result = pixel;
      where = y * width + x;
    }
  }
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const C other = __shfl_down_sync(0xffffffffu, result, distance);
    const int32_t there = __shfl_down_sync(0xffffffffu, where, distance);
    if constexpr (Average) {
      result += other;
    } else if (there >= 0) {
      // In the order of pixels, of which equal ones and NaNs count where they come first.
      const bool is_later = there > where;
      const bool takes = where < 0 || (is_later ? replaces(other, result) : !replaces(result, other));
      if (takes) result = other, where = there;
    }
  }
  return Average ? result / static_cast<C>(area) : result;
}

// Blocks are (image, channel). `along`, where it is not null, is what is pooled in place of the input: of a largest
// pixel its own direction.
template <class T, bool Average>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    pool_kernel(Geometry geometry, View<const T, 4> input, View<const T, 4> along, View<T, 2> output) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarpSize,
                lane = static_cast<int32_t>(threadIdx.x) % kWarpSize;
  const int64_t n = blockIdx.x / geometry.channels, channel = blockIdx.x - n * geometry.channels;
  const int32_t width = static_cast<int32_t>(geometry.width);
  const View<const T, 4> pixels = Average && along ? along : input;
  for (int32_t index = warp; index < geometry.bins; index += kWarps) {
    const Bin bin(geometry, channel, index);
    int32_t where = 0;
    Compute<T> result =
        warp_pool<T, Average>(bin, pixels.at(n, channel, 0, 0), pixels.strides[2], pixels.strides[3], width, where);
    if (lane != 0) continue;
    if constexpr (!Average) {
      if (along) result = widen(load(along.at(n, channel, where / width, where % width)));
    }
    store(output.at(n, bin.output), narrow<T>(result));
  }
}

template <class T, bool Average>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    pool_backward_kernel(Geometry geometry, View<const T, 4> input, View<const T, 2> grad, View<T, 4> result) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(int32_t, largest);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / kWarpSize,
                lane = static_cast<int32_t>(threadIdx.x) % kWarpSize;
  const int64_t n = blockIdx.x / geometry.channels, channel = blockIdx.x - n * geometry.channels;
  const int32_t height = static_cast<int32_t>(geometry.height), width = static_cast<int32_t>(geometry.width);
  if constexpr (!Average) {
    for (int32_t index = warp; index < geometry.bins; index += kWarps) {
      int32_t where = 0;
      warp_pool<T, false>(Bin(geometry, channel, index), input.at(n, channel, 0, 0), input.strides[2], input.strides[3],
                          width, where);
      if (lane == 0) largest[index] = where;
    }
    __syncthreads();
  }
  for (int32_t pixel = static_cast<int32_t>(threadIdx.x); pixel < height * width; pixel += kThreads) {
    const int32_t y = pixel / width, x = pixel % width;
    C sum = 0;
    int64_t before = 0;
    int32_t first = 0;
    for (int64_t l = 0; l < geometry.level_count; ++l) {
      const int32_t level = static_cast<int32_t>(geometry.levels[l]);
      const int64_t of_channel = before + channel * level * level;
      for (int64_t i = first_bin(y, level, height); i < last_bin(y, level, height); ++i) {
        for (int64_t j = first_bin(x, level, width); j < last_bin(x, level, width); ++j) {
          const int64_t k = i * level + j;
          if constexpr (Average) {
            const int64_t area = (bin_end(i, level, height) - bin_begin(i, level, height)) *
                                 (bin_end(j, level, width) - bin_begin(j, level, width));
            sum += widen(load_constant(grad.at(n, of_channel + k))) / static_cast<C>(area);
          } else if (largest[first + k] == pixel) {
            sum += widen(load_constant(grad.at(n, of_channel + k)));
          }
        }
      }
      before += geometry.channels * level * level;
      first += level * level;
    }
    store(result.at(n, channel, y, x), narrow<T>(sum));
  }
}

// ---- host entries ---------------------------------------------------------------------------------------------------

void pool(const Geometry& geometry, bool average, const Tensor& input, const std::optional<Tensor>& along,
          const Tensor& output) {
  if (output.numel() == 0) return;
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_bool(average, [&](auto is_average) {
      launch("pool_kernel", pool_kernel<T, is_average.value>, DeviceOf(input),
             Blocks{geometry.batch * geometry.channels, dim3(kThreads)}, geometry, view<T, 4>(input), view<T, 4>(along),
             mutable_view<T, 2>(output));
    });
  });
}

Tensor spatial_pyramid_pool_2d_cuda(const Tensor& input,  // [N, C, H, W]
                                    const std::vector<int64_t>& levels, bool average) {
  const Geometry geometry = check_arguments(input, levels);
  const Tensor output = empty_output(geometry, input);
  pool(geometry, average, input, std::nullopt, output);
  return output;
}

Tensor spatial_pyramid_pool_2d_backward_cuda(const Tensor& grad_output,  // [N, C * bins]
                                             const Tensor& input,        // [N, C, H, W]
                                             const std::vector<int64_t>& levels, bool average,
                                             const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, levels);
  check_grad_output(geometry, grad_output, input);
  const bool wanted = as_output_mask<1>(kOp, output_mask)[0];
  const Tensor grad_input = empty_gradient(wanted, input);
  if (!wanted || grad_input.numel() == 0) return grad_input;
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    dispatch_bool(average, [&](auto is_average) {
      launch("pool_backward_kernel", pool_backward_kernel<T, is_average.value>, DeviceOf(input),
             Blocks{geometry.batch * geometry.channels, dim3(kThreads),
                    average ? 0 : geometry.bins * static_cast<int64_t>(sizeof(int32_t))},
             geometry, view<T, 4>(input), view<T, 2>(grad_output), mutable_view<T, 4>(grad_input));
    });
  });
  return grad_input;
}

std::tuple<Tensor, Tensor> spatial_pyramid_pool_2d_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_input,  // [N, C, H, W]
    const Tensor& grad_output,                     // [N, C * bins]
    const Tensor& input,                           // [N, C, H, W]
    const std::vector<int64_t>& levels, bool average, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, levels);
  check_grad_output(geometry, grad_output, input);
  const DoubleBackward call(geometry, grad_grad_input, input, as_output_mask<2>(kOp, output_mask));
  if (call.wants_grad_output) pool(geometry, average, input, grad_grad_input, call.grad_grad_output);
  return {call.grad_grad_output, call.grad_input};
}

}  // namespace
}  // namespace handgrad::spatial_pyramid_pool_2d

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::spatial_pyramid_pool_2d::spatial_pyramid_pool_2d_cuda>(library,
                                                                                       "spatial_pyramid_pool_2d");
  handgrad::implement<handgrad::spatial_pyramid_pool_2d::spatial_pyramid_pool_2d_backward_cuda>(
      library, "_spatial_pyramid_pool_2d_backward");
  handgrad::implement<handgrad::spatial_pyramid_pool_2d::spatial_pyramid_pool_2d_double_backward_cuda>(
      library, "_spatial_pyramid_pool_2d_double_backward");
}
