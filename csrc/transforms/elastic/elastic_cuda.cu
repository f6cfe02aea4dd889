// An image read beside its pixels, on CUDA devices: a thread has a pixel of the output, in the arithmetic of the CPU,
// so that levels are the same. The gradient of the image is gathered.
#include "elastic_kernels.cuh"

namespace handgrad::elastic {
namespace {

struct OnCuda {
  template <class T>
  static void output(const ImageFrame& frame, const Places<Compute<T>>& places, const std::vector<double>& fill,
                     const Tensor& image, const Tensor& output) {
    launch_output<T>("elastic_output", frame, places, fill, image, output);
  }

  // N is Compute<T>, or a Dual of it for what is differentiated once more.
  template <class T, class N>
  static void gradients(const ImageFrame& frame, const Places<Plain<N>>& places, const std::vector<double>& fill,
                        const Tensor& image, const std::optional<Tensor>& direction, const Tensor& grad_output,
                        const Results& results) {
    const DeviceOf device(image);
    if (results.wants_image) {
      gather<T, N>(device, frame, places, fill, grad_output, results.grad_image);
    }
    if (results.wants_output) {
      launch_grad_grad_output<T>("elastic_grad_grad_output", frame, places, fill, image, direction,
                                 results.grad_grad_output);
    }
    if (!results.wants_where) return;
    for_channels(frame, fill, [&](const Surroundings& around) {
      launch("elastic_grad_displacement", grad_displacement_kernel<T, N>, device,
             blocks_for(frame.batch * frame.height * frame.width, kSlopeThreads), frame, places, around,
             view<T, 4>(image), view<T, 4>(direction), view<T, 4>(grad_output),
             mutable_view<Plain<N>, 4>(results.grad_where));
    });
  }

  template <class T, class N>
  static void gather(const DeviceOf& device, const ImageFrame& frame, const Places<Plain<N>>& places,
                     const std::vector<double>& fill, const Tensor& grad_output, const Tensor& grad_image) {
    const Tiles tiles(frame);
    const int64_t rows = frame.batch * tiles.down, count = rows * tiles.across;
    // Four halves of indices each.
    const Tensor memory = empty_indices(2 * (count + rows), grad_image);
    const Boxes boxes{tiles, reinterpret_cast<int32_t*>(memory.mutable_data_ptr<int64_t>())};
    launch("elastic_tile_boxes", tile_boxes_kernel<Plain<N>>, device, blocks_for(count, kSlopeThreads), frame, places,
           boxes);
    launch("elastic_row_boxes", row_boxes_kernel, device, blocks_for(rows, kSlopeThreads), frame.batch, boxes);
    for_channels(frame, fill, [&](const Surroundings& around) {
      launch("elastic_grad_image", grad_image_kernel<T, N>, device,
             blocks_for(frame.batch * frame.height * frame.width, kSlopeThreads), frame, places, boxes, around,
             view<T, 4>(grad_output), mutable_view<T, 4>(grad_image));
    });
  }
};

}  // namespace
}  // namespace handgrad::elastic

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::elastic::implement<handgrad::elastic::OnCuda>(library);
}
