// An image read at the positions that a matrix makes of the output's, on CUDA devices: a thread has a pixel of the
// output, in the arithmetic of the CPU, so that levels are the same.
//
// The gradient of the image is gathered: a thread has a pixel, finds by the inverse of the matrix which outputs may be
// read there, and asks those. That of the matrix is summed warp by warp, in one order.
#include "warp_kernels.cuh"

namespace handgrad::warp {
namespace {

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

struct OnCuda {
  template <class T>
  static void output(const Frame& frame, const MatrixTable& table, const std::vector<double>& fill, const Tensor& image,
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
  static void gradients(const Frame& frame, const MatrixTable& table, const std::vector<double>& fill,
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
    if (results.wants_output) {
      for_channels(frame, fill, [&](const Surroundings& around) {
        launch("warp_grad_grad_output", grad_grad_output_kernel<T>, device,
               blocks_for(frame.batch * frame.out_height * frame.out_width, kSlopeThreads), frame, table, around,
               view<T, 4>(image), view<T, 4>(direction), mutable_view<T, 4>(results.grad_grad_output));
      });
    }
    if (!results.wants_matrix) return;
    const int64_t launches = (frame.channels + kChannels - 1) / kChannels, sums = frame.batch * kSumWarps * 9;
    const Tensor partial = empty_vector<double>(launches * sums, image);
    for_channels(frame, fill, [&](const Surroundings& around) {
      launch("warp_grad_matrix", grad_matrix_kernel<T, N>, device,
             {frame.batch * kSumBlocks, dim3(kSlopeThreads, 1, 1)}, frame, table, around, view<T, 4>(image),
             view<T, 4>(direction), view<T, 4>(grad_output),
             partial.mutable_data_ptr<double>() + around.first / kChannels * sums);
    });
    launch("warp_sum_matrix", sum_matrix_kernel, device, blocks_for(frame.batch * table.rows() * 3, kThreads),
           frame.batch, launches, table.rows(), partial.const_data_ptr<double>(),
           mutable_view<double, 3>(results.grad_matrix));
  }
};

}  // namespace
}  // namespace handgrad::warp

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::warp::implement<handgrad::warp::OnCuda>(library);
}
