// A blend of an image with a blurred one on CUDA devices (adjust_sharpness_kernels.cuh): launches.
#include "adjust_sharpness_kernels.cuh"

namespace handgrad::adjust_sharpness {
namespace {

int64_t tiles_of_image(const Geometry& geometry) {
  return geometry.channels * Tile<kTile>::tiles_along(geometry.height) * Tile<kTile>::tiles_along(geometry.width);
}
Blocks block_per_tile(const Geometry& geometry) {
  return {geometry.batch * tiles_of_image(geometry), dim3(kThreads, 1, 1)};
}

struct OnCuda {
  static void levels(const Geometry& geometry, const FactorTable& table, const Tensor& image, const Tensor& output) {
    launch("adjust_sharpness_levels", sharpen_kernel<uint8_t>, DeviceOf(image), block_per_tile(geometry), geometry,
           table, view<uint8_t, 4>(image), mutable_view<uint8_t, 4>(output));
  }

  template <class C>
  static void numbers(const Geometry& geometry, const FactorTable& table, const Tensor& image, const Tensor& output) {
    launch("adjust_sharpness_numbers", sharpen_kernel<C>, DeviceOf(image), block_per_tile(geometry), geometry, table,
           stored_view<C, 4>(image), mutable_stored_view<C, 4>(output));
  }

  template <class C>
  static void gradients(const Geometry& geometry, const FactorTable& table, const Derivative& call) {
    const DeviceOf device(*call.image);
    DeviceDerivative<C> made{stored_view<C, 4>(*call.image), stored_view<C, 4>(*call.grad_output), {}, {}, {}};
    if (call.direction) made.direction = stored_view<C, 4>(*call.direction);
    if (call.grad_grad_output) made.grad_grad_output = mutable_stored_view<C, 4>(*call.grad_grad_output);
    if (call.grad_image) made.grad_image = mutable_stored_view<C, 4>(*call.grad_image);
    made.is_second = call.is_second;
    std::optional<Tensor> sums;
    if (call.sums) sums = empty_vector<double>(geometry.batch * tiles_of_image(geometry), *call.image);
    if (sums) made.sums = sums->template mutable_data_ptr<double>();
    launch("adjust_sharpness_gradients", differentiate_kernel<C>, device, block_per_tile(geometry), geometry, table,
           made);
    if (!sums) return;
    launch("adjust_sharpness_sums", add_tiles_kernel, device, blocks_for(geometry.batch, kThreads),
           sums->template const_data_ptr<double>(), tiles_of_image(geometry), geometry.batch,
           mutable_view<double, 1>(*call.sums));
  }
};

}  // namespace
}  // namespace handgrad::adjust_sharpness

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::adjust_sharpness::implement<handgrad::adjust_sharpness::OnCuda>(library);
}
