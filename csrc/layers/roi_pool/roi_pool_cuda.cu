// RoI pooling on CUDA devices.
//
// Forward: a thread for a bin and a channel. Backward: the same kernel finds where the largest pixels are, indices in
// memory that the backward takes and gives back, and then the gradient of the image is not scattered but gathered: a
// block has a tile of pixels and some channels, and goes through the boxes that reach the tile, in order; a thread
// adds, for its own pixel, the gradients of those bins around it whose largest pixel it is. So nothing is atomic, and
// the order of every sum is that of the boxes.
//
// In order of appearance: Operands, the tensors of a call; the largest pixels; the gradient of the image; launches; the
// host entries.
#include <limits>

#include "abi/registration.h"
#include "cuda/access.cuh"
#include "cuda/box_tiles.cuh"
#include "cuda/launch.cuh"
#include "roi_pool_host.h"

namespace handgrad::roi_pool {
namespace {

constexpr int kThreads = 256;
// Pixels along a tile's side; channels of a block, and of a thread.
constexpr int kSide = 8, kTileChannels = 32, kPixelChannels = 8;
static_assert(kSide * kSide * (kTileChannels / kPixelChannels) == kThreads);

template <class T>
struct Operands {
  View<const T, 4> input;           // [N, C, H, W]
  View<const Compute<T>, 2> boxes;  // [K, 5]
  View<const T, 4> v_input;         // [N, C, H, W], the direction grad_grad_input
};

template <class C>
struct BoxOnDevice {
  int32_t image;
  WholeAxis<C> axis_h, axis_w;

  template <class T>
  __device__ BoxOnDevice(const RoiGeometry& geometry, const Operands<T>& operands, int32_t k)
      : image(geometry.batch_index(load(operands.boxes.at(k, 0)))),
        axis_h(axis_of(load(operands.boxes.at(k, 2)), load(operands.boxes.at(k, 4)), geometry.spatial_scale,
                       geometry.pooled_h, geometry.height)),
        axis_w(axis_of(load(operands.boxes.at(k, 1)), load(operands.boxes.at(k, 3)), geometry.spatial_scale,
                       geometry.pooled_w, geometry.width)) {}

  // Every bin is NaN.
  __device__ bool is_nan() const { return image < 0 || axis_h.is_nonfinite || axis_w.is_nonfinite; }
};

enum class What { kValue, kIndex, kDirection };

// The largest pixel of each bin; or its index in the image, -1 in a bin without pixels; or the direction's value there.
// Neighbouring threads have what is neighbours in the output's memory.
template <class T, What Which>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    largest_kernel(RoiGeometry geometry, Operands<T> operands, bool channels_last,
                   View<T, 4> output,   // [K, C, pooled_h, pooled_w]
                   int32_t* indices) {  // K x C x pooled_h x pooled_w
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x, bins = geometry.bins();
  const int64_t of_box = geometry.channels * bins;
  if (i >= geometry.boxes * of_box) return;
  const int32_t k = static_cast<int32_t>(i / of_box);
  const int64_t rest = i - k * of_box, inner_size = channels_last ? geometry.channels : bins;
  const int64_t outer = rest / inner_size, inner = rest - outer * inner_size;
  const int32_t c = static_cast<int32_t>(channels_last ? inner : outer);
  const int64_t bin = channels_last ? outer : inner;
  const int32_t ph = static_cast<int32_t>(bin / geometry.pooled_w);
  const int32_t pw = static_cast<int32_t>(bin - int64_t{ph} * geometry.pooled_w);
  const BoxOnDevice<C> box(geometry, operands, k);
  const bool is_nan = box.is_nan();
  C largest = is_nan ? std::numeric_limits<C>::quiet_NaN() : C(0);
  int32_t index = -1;
  if (!is_nan) {
    const int32_t row_end = box.axis_h.end(ph), column_begin = box.axis_w.begin(pw), column_end = box.axis_w.end(pw);
    for (int32_t y = box.axis_h.begin(ph); y < row_end; ++y) {
      for (int32_t x = column_begin; x < column_end; ++x) {
        const C pixel = widen(load(operands.input.at(box.image, c, y, x)));
        if (index >= 0 && !replaces(pixel, largest)) continue;
        largest = pixel;
        index = y * geometry.width + x;
      }
    }
  }
  if constexpr (Which == What::kIndex) {
    store(indices + i, index);
  } else {
    if constexpr (Which == What::kDirection) {
      if (index >= 0) {
        const int32_t y = index / geometry.width;
        largest = widen(load(operands.v_input.at(box.image, c, y, index - y * geometry.width)));
      }
    }
    store(output.at(k, c, ph, pw), narrow<T>(largest));
  }
}

// The gradient of the image. Blocks are (channels, image, tile); a thread has a pixel, and some channels of it.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_input_kernel(RoiGeometry geometry, Operands<T> operands,
                      View<const T, 4> grad_output,                               // [K, C, pooled_h, pooled_w]
                      const int32_t* indices,                                     // K x C x pooled_h x pooled_w
                      int32_t tiles_h, int32_t tiles_w, View<T, 4> grad_input) {  // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  __shared__ BoxesOfTile<kThreads> near;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t tiles = int64_t{tiles_h} * tiles_w, block = blockIdx.x, rest = block / tiles;
  const int32_t image = static_cast<int32_t>(rest % geometry.batch);
  const int64_t tile = block - rest * tiles;
  const int32_t first_y = static_cast<int32_t>(tile / tiles_w) * kSide;
  const int32_t first_x = static_cast<int32_t>(tile % tiles_w) * kSide;
  const int32_t y = first_y + thread / kSide % kSide, x = first_x + thread % kSide;
  const int32_t channel =
      static_cast<int32_t>(rest / geometry.batch) * kTileChannels + thread / (kSide * kSide) * kPixelChannels;
  const bool is_pixel = y < geometry.height && x < geometry.width;
  const int32_t index = y * geometry.width + x;
  const int64_t bins = geometry.bins();

  C sums[kPixelChannels] = {};
  for (int32_t some = 0; some < geometry.boxes; some += kThreads) {
    const int count = near.find(geometry.boxes, some, [&](int32_t k) {
      const BoxOnDevice<C> box(geometry, operands, k);
      return box.image == image && box.axis_h.may_touch(first_y, first_y + kSide) &&
             box.axis_w.may_touch(first_x, first_x + kSide);
    });
    for (int32_t i = 0; is_pixel && i < count; ++i) {
      const int32_t k = near.boxes[i];
      const BoxOnDevice<C> box(geometry, operands, k);
      const int32_t row_end = box.axis_h.last_bin(y), column_begin = box.axis_w.first_bin(x),
                    column_end = box.axis_w.last_bin(x);
      for (int32_t p = box.axis_h.first_bin(y); p < row_end; ++p) {
        for (int32_t q = column_begin; q < column_end; ++q) {
          const int32_t* found =
              indices + (int64_t{k} * geometry.channels + channel) * bins + int64_t{p} * geometry.pooled_w + q;
#pragma unroll
          for (int j = 0; j < kPixelChannels; ++j) {
            if (channel + j >= geometry.channels || load(found + j * bins) != index) continue;
            sums[j] += widen(load(grad_output.at(k, channel + j, p, q)));
          }
        }
      }
    }
    // The next boxes take the place of these when all threads have been counted.
  }
  if (!is_pixel) return;
#pragma unroll
  for (int j = 0; j < kPixelChannels; ++j) {
    if (channel + j < geometry.channels) store(grad_input.at(image, channel + j, y, x), narrow<T>(sums[j]));
  }
}

// ---- launches -------------------------------------------------------------------------------------------------------

template <class T, What Which>
void launch_largest(const RoiGeometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                    bool channels_last, const View<T, 4>& output, int32_t* indices) {
  launch("roi_pool_largest", largest_kernel<T, Which>, device,
         blocks_for(int64_t{geometry.boxes} * geometry.channels * geometry.bins(), kThreads), geometry, operands,
         channels_last, output, indices);
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor roi_pool_cuda(const Tensor& input,  // [N, C, H, W]
                     const Tensor& boxes,  // [K, 5]
                     int64_t pooled_h, int64_t pooled_w, double spatial_scale) {
  const RoiGeometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale);
  const Tensor output = empty_output(geometry, input);
  const DeviceOf device(input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Operands<T> operands{view<T, 4>(input), view<Compute<T>, 2>(boxes), {}};
    launch_largest<T, What::kValue>(geometry, device, operands, !output.is_contiguous(), mutable_view<T, 4>(output),
                                    nullptr);
  });
  return output;
}

Tensor roi_pool_backward_cuda(const Tensor& grad_output,  // [K, C, pooled_h, pooled_w]
                              const Tensor& input,        // [N, C, H, W]
                              const Tensor& boxes,        // [K, 5]
                              int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                              const std::vector<bool>& output_mask) {
  const RoiGeometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale);
  check_grad_output(geometry, grad_output, input);
  const bool wanted = as_output_mask<1>(kOp, output_mask)[0];
  const Tensor grad_input = empty_gradient(wanted, input);
  if (!wanted) return grad_input;
  const int64_t count = grad_output.numel(), one = 1;
  const Tensor indices = empty_strided(Sizes(&count, 1), Sizes(&one, 1), aoti_torch_dtype_int32(), input);
  int32_t* const found = indices.mutable_data_ptr<int32_t>();
  const DeviceOf device(input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Operands<T> operands{view<T, 4>(input), view<Compute<T>, 2>(boxes), {}};
    launch_largest<T, What::kIndex>(geometry, device, operands, false, {}, found);
    const int32_t tiles_h = (geometry.height + kSide - 1) / kSide, tiles_w = (geometry.width + kSide - 1) / kSide;
    const int64_t chunks = (geometry.channels + kTileChannels - 1) / kTileChannels;
    launch("roi_pool_grad_input", grad_input_kernel<T>, device,
           {chunks * geometry.batch * tiles_h * tiles_w, dim3(kThreads, 1, 1)}, geometry, operands,
           view<T, 4>(grad_output), found, tiles_h, tiles_w, mutable_view<T, 4>(grad_input));
  });
  return grad_input;
}

std::tuple<Tensor, Tensor> roi_pool_double_backward_cuda(const std::optional<Tensor>& grad_grad_input,  // [N, C, H, W]
                                                         const Tensor& grad_output,  // [K, C, pooled_h, pooled_w]
                                                         const Tensor& input,        // [N, C, H, W]
                                                         const Tensor& boxes,        // [K, 5]
                                                         int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                                                         const std::vector<bool>& output_mask) {
  const RoiGeometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale);
  check_grad_output(geometry, grad_output, input);
  const RoiDoubleBackward results(geometry, grad_grad_input, input, output_mask);
  if (!results.wants_output) return {results.grad_grad_output, results.grad_input};
  const DeviceOf device(input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Operands<T> operands{view<T, 4>(input), view<Compute<T>, 2>(boxes), view<T, 4>(grad_grad_input)};
    const Tensor& output = results.grad_grad_output;
    launch_largest<T, What::kDirection>(geometry, device, operands, !output.is_contiguous(), mutable_view<T, 4>(output),
                                        nullptr);
  });
  return {results.grad_grad_output, results.grad_input};
}

}  // namespace
}  // namespace handgrad::roi_pool

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::roi_pool::roi_pool_cuda>(library, "roi_pool");
  handgrad::implement<handgrad::roi_pool::roi_pool_backward_cuda>(library, "_roi_pool_backward");
  handgrad::implement<handgrad::roi_pool::roi_pool_double_backward_cuda>(library, "_roi_pool_double_backward");
}
