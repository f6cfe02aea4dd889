// An image read at the positions that a matrix makes of the output's, on CUDA devices: a thread has a pixel of the
// output, in the arithmetic of the CPU, so that levels are the same.
//
// The gradient of the image is gathered: a thread has a pixel, finds by the inverse of the matrix which outputs may be
// read there, and asks those. That of the matrix is summed warp by warp, in one order.
#include "warp_kernels.cuh"

namespace handgrad::warp {
namespace {

struct OnCuda {
  template <class T>
  static void output(const Places& places, const std::vector<double>& fill, const Tensor& image, const Tensor& output) {
    launch_output<T>("warp_output", places.frame, places, fill, image, output);
  }

  // N is Compute<T>, or a Dual of it for what is differentiated once more.
  template <class T, class N>
  static void gradients(const Places& places, const std::vector<double>& fill, const Tensor& image,
                        const std::optional<Tensor>& direction, const Tensor& grad_output, const Results& results) {
    const DeviceOf device(image);
    const Frame& frame = places.frame;
    if (results.wants_image) {
      for_channels(frame, fill, [&](const Surroundings& around) {
        launch("warp_grad_image", grad_image_kernel<T, N>, device,
               blocks_for(frame.batch * frame.height * frame.width, kSlopeThreads), places, around,
               view<T, 4>(grad_output), mutable_view<T, 4>(results.grad_image));
      });
    }
    if (results.wants_output) {
      launch_grad_grad_output<T>("warp_grad_grad_output", frame, places, fill, image, direction,
                                 results.grad_grad_output);
    }
    if (!results.wants_where) return;
    const int64_t launches = (frame.channels + kChannels - 1) / kChannels, sums = frame.batch * kSumWarps * 9;
    const Tensor partial = empty_vector<double>(launches * sums, image);
    for_channels(frame, fill, [&](const Surroundings& around) {
      launch("warp_grad_matrix", grad_matrix_kernel<T, N>, device,
             {frame.batch * kSumBlocks, dim3(kSlopeThreads, 1, 1)}, places, around, view<T, 4>(image),
             view<T, 4>(direction), view<T, 4>(grad_output),
             partial.mutable_data_ptr<double>() + around.first / kChannels * sums);
    });
    launch("warp_sum_matrix", sum_matrix_kernel, device, blocks_for(frame.batch * places.table.rows() * 3, kThreads),
           frame.batch, launches, places.table.rows(), partial.const_data_ptr<double>(),
           mutable_view<double, 3>(results.grad_where));
  }
};

}  // namespace
}  // namespace handgrad::warp

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::warp::implement<handgrad::warp::OnCuda>(library);
}
