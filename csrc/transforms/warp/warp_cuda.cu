// An image read at the positions that a matrix makes of the output's, on CUDA devices: a thread has a pixel of the
// output, in the arithmetic of the CPU, so that levels are the same.
//
// The gradient of the image is gathered: a thread has a pixel, finds by the inverse of the matrix which outputs may be
// read there, and asks those. That of the matrix is summed warp by warp, in one order.
#include "abi/registration.h"
#include "warp_kernels.cuh"

namespace handgrad {
namespace {

using namespace warp;

// ---- launches -------------------------------------------------------------------------------------------------------

// body(surroundings) for a few channels at a time.
template <class Body>
void for_channels(const Frame& frame, const std::vector<double>& fill, const Body& body) {
  for (int64_t first = 0; first < frame.channels; first += kChannels) {
    const int64_t count = std::min<int64_t>(kChannels, frame.channels - first);
    Surroundings around{static_cast<int32_t>(first), static_cast<int32_t>(count), {}};
    for (int64_t c = 0; c < count; ++c) around.fill[c] = fill_of(fill, first + c);
    body(around);
  }
}

template <class T>
void launch_output(const Frame& frame, const MatrixTable& table, const std::vector<double>& fill, const Tensor& image,
                   const Tensor& output) {
  const DeviceOf device(image);
  for_channels(frame, fill, [&](const Surroundings& around) {
    launch("warp_output", output_kernel<T>, device,
           blocks_for(frame.batch * frame.out_height * frame.out_width, kThreads), frame, table, around,
           view<T, 4>(image), mutable_view<T, 4>(output));
  });
}

// N is Compute<T>, or a Dual of it for what is differentiated once more.
template <class T, class N>
void launch_gradients(const Frame& frame, const MatrixTable& table, const std::vector<double>& fill,
                      const Tensor& image, const std::optional<Tensor>& direction, const Tensor& grad_output,
                      const Results& results) {
  const DeviceOf device(image);
  if (results.wants_image) {
    for_channels(frame, fill, [&](const Surroundings& around) {
      launch("warp_grad_image", grad_image_kernel<T, N>, device,
             blocks_for(frame.batch * frame.height * frame.width, kSlopeThreads), frame, table, around,
             view<T, 4>(grad_output), mutable_view<T, 4>(results.grad_image));
    });
  }
  if (!results.wants_matrix) return;
  const int64_t launches = (frame.channels + kChannels - 1) / kChannels, sums = frame.batch * kSumWarps * 9;
  const Tensor partial = empty_vector<double>(launches * sums, image);
  for_channels(frame, fill, [&](const Surroundings& around) {
    launch("warp_grad_matrix", grad_matrix_kernel<T, N>, device, {frame.batch * kSumBlocks, dim3(kSlopeThreads, 1, 1)},
           frame, table, around, view<T, 4>(image), view<T, 4>(direction), view<T, 4>(grad_output),
           partial.mutable_data_ptr<double>() + around.first / kChannels * sums);
  });
  launch("warp_sum_matrix", sum_matrix_kernel, device, blocks_for(frame.batch * table.rows() * 3, kThreads),
         frame.batch, launches, table.rows(), partial.const_data_ptr<double>(),
         mutable_view<double, 3>(results.grad_matrix));
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor warp_cuda(const Tensor& image,                  // [N, C, H, W]
                 const std::optional<Tensor>& matrix,  // [N, 2 or 3, 3]
                 const std::vector<double>& numbers, int64_t height, int64_t width, int64_t interpolation,
                 const std::vector<double>& fill, bool centered) {
  const Arguments arguments{matrix, numbers, height, width, interpolation, fill, centered};
  const Frame frame = check_arguments(image, arguments);
  const Tensor output = empty_output(frame, image);
  if (output.numel() == 0) return output;
  const MatrixTable table = matrix_table(arguments);
  if (image.scalar_type() == ScalarType::Byte) {
    launch_output<uint8_t>(frame, table, fill, image, output);
  } else {
    dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
      launch_output<typename decltype(tag)::type>(frame, table, fill, image, output);
    });
  }
  return output;
}

std::tuple<Tensor, Tensor> warp_backward_cuda(const Tensor& grad_output,            // [N, C, height, width]
                                              const Tensor& image,                  // [N, C, H, W]
                                              const std::optional<Tensor>& matrix,  // [N, 2 or 3, 3]
                                              const std::vector<double>& numbers, int64_t height, int64_t width,
                                              int64_t interpolation, const std::vector<double>& fill, bool centered,
                                              const std::vector<bool>& output_mask) {
  const Arguments arguments{matrix, numbers, height, width, interpolation, fill, centered};
  const Frame frame = check_derivative(image, arguments, grad_output);
  const std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  Results results(frame, arguments, image, {false, wanted[0], wanted[1]});
  if (results.is_done(frame)) return {results.grad_image, results.grad_matrix};
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_gradients<T, Compute<T>>(frame, matrix_table(arguments), fill, image, std::nullopt, grad_output, results);
  });
  return {results.grad_image, results.grad_matrix};
}

std::tuple<Tensor, Tensor, Tensor> warp_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_image,   // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_matrix,  // [N, 2 or 3, 3]
    const Tensor& grad_output,                      // [N, C, height, width]
    const Tensor& image,                            // [N, C, H, W]
    const std::optional<Tensor>& matrix,            // [N, 2 or 3, 3]
    const std::vector<double>& numbers, int64_t height, int64_t width, int64_t interpolation,
    const std::vector<double>& fill, bool centered, const std::vector<bool>& output_mask) {
  const Arguments arguments{matrix, numbers, height, width, interpolation, fill, centered};
  const Frame frame = check_derivative(image, arguments, grad_output);
  check_directions(image, arguments, grad_grad_image, grad_grad_matrix);
  Results results(frame, arguments, image, as_output_mask<3>(kOp, output_mask));
  if (results.is_done(frame)) return {results.grad_grad_output, results.grad_image, results.grad_matrix};
  const MatrixTable table = matrix_table(arguments, grad_grad_matrix);
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_gradients<T, Dual<Compute<T>>>(frame, table, fill, image, grad_grad_image, grad_output, results);
    if (!results.wants_output) return;
    for_channels(frame, fill, [&](const Surroundings& around) {
      launch("warp_grad_grad_output", grad_grad_output_kernel<T>, DeviceOf(image),
             blocks_for(frame.batch * frame.out_height * frame.out_width, kSlopeThreads), frame, table, around,
             view<T, 4>(image), view<T, 4>(grad_grad_image), mutable_view<T, 4>(results.grad_grad_output));
    });
  });
  return {results.grad_grad_output, results.grad_image, results.grad_matrix};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::warp_cuda>(library, "warp");
  handgrad::implement<handgrad::warp_backward_cuda>(library, "_warp_backward");
  handgrad::implement<handgrad::warp_double_backward_cuda>(library, "_warp_double_backward");
}
