// Crop, resize, flip, scale and normalise on CUDA devices.
//
// A first kernel makes the taps of each box, by the same formula and in the same double as the CPU, so that integer
// weights are the same; nothing is waited for, and boxes may be on the device. Then a thread has a pixel of the output:
// it sums its taps row by row, with the CPU's rounding in between. Rows are summed again for each output that needs
// them, about twice as often as necessary; what they are made of is in the nearest cache by then, and there is no
// memory between the passes.
//
// The gradient of the image is gathered: a thread has a pixel and looks up the outputs that it is in.
#include "abi/registration.h"
#include "resized_crop_kernels.cuh"

namespace handgrad::resized_crop {
namespace {

// ---- launches -------------------------------------------------------------------------------------------------------

// The memory of the tables, and what is in it once the kernel has run.
template <class C>
struct MadeTables {
  Tensor exact, weights, windows, users;
  Tables<C> tables;

  MadeTables(const Geometry& geometry, const BoxTable& boxes, const Tensor& image, const DeviceOf& device,
             bool of_levels, bool for_gradient) {
    const int64_t sets = boxes.boxes ? geometry.batch : 1;
    // No box has more taps than the whole image.
    const Box widest{0, 0, static_cast<int32_t>(geometry.height), static_cast<int32_t>(geometry.width), false, false};
    const Box box = boxes.boxes ? widest : boxes.box(0);
    tables.outputs[0] = geometry.whole_width, tables.outputs[1] = geometry.whole_height;
    tables.most[0] = geometry.columns(box).most_taps, tables.most[1] = geometry.rows(box).most_taps;
    exact = empty_vector<double>(tables.weights_before(sets, 0), image);
    weights = empty_vector<C>(tables.weights_before(sets, 0), image);
    windows = empty_indices(tables.windows_before(sets, 0), image);
    tables.exact = exact.mutable_data_ptr<double>();
    tables.weights = weights.mutable_data_ptr<C>();
    tables.windows = windows.mutable_data_ptr<int64_t>();
    tables.pixels[0] = geometry.width, tables.pixels[1] = geometry.height;
    users = empty_indices(for_gradient ? tables.users_before(sets, 0) : 0, image);
    tables.users = for_gradient ? users.mutable_data_ptr<int64_t>() : nullptr;
    launch("resized_crop_tables", tables_kernel<C>, device, {2 * sets, dim3(kThreads, 1, 1)}, geometry, boxes, tables,
           of_levels);
  }
};

// body(statistics) for a few channels at a time.
template <class Body>
void for_channels(const Geometry& geometry, const std::vector<double>& mean, const std::vector<double>& std,
                  LevelScaling scaling, const Body& body) {
  const std::vector<double> means = per_channel(mean, geometry.channels),
                            deviations = per_channel(std, geometry.channels);
  for (int64_t first = 0; first < geometry.channels; first += kChannels) {
    const int64_t count = std::min<int64_t>(kChannels, geometry.channels - first);
    body(statistics_of(means, deviations, scaling, first, count));
  }
}

template <class In, class Out>
void launch_output(const Geometry& geometry, const BoxTable& boxes, const Tensor& image, const Tensor& output,
                   const std::vector<double>& mean, const std::vector<double>& std, LevelScaling scaling) {
  // float holds every integer weight.
  using C = std::conditional_t<sizeof(In) == 1, float, Compute<In>>;
  const DeviceOf device(image);
  const MadeTables<C> made(geometry, boxes, image, device, sizeof(In) == 1, false);
  const int64_t pixels = int64_t{geometry.out_height} * geometry.out_width;
  for_channels(geometry, mean, std, scaling, [&](const Statistics& statistics) {
    launch("resized_crop_output", output_kernel<In, Out, C>, device, blocks_for(geometry.batch * pixels, kThreads),
           geometry, boxes, made.tables, statistics, view<In, 4>(image), mutable_view<Out, 4>(output));
  });
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor resized_crop_cuda(const Tensor& image,                            // [N, C, H, W]
                         const std::optional<Tensor>& boxes,             // [N, 4]
                         const std::optional<Tensor>& horizontal_flips,  // [N]
                         const std::optional<Tensor>& vertical_flips,    // [N]
                         const std::vector<int64_t>& box, int64_t height, int64_t width, int64_t interpolation,
                         bool antialias, ScalarType dtype, const std::vector<double>& mean,
                         const std::vector<double>& std, int64_t memory_format, bool pillow, int64_t scaling) {
  const Arguments arguments{boxes, horizontal_flips, vertical_flips, box,    height,
                            width, interpolation,    antialias,      dtype,  mean,
                            std,   memory_format,    pillow,         scaling};
  const Geometry geometry = check_arguments(image, arguments);
  const Tensor output = empty_output(geometry, arguments, image);
  if (output.numel() == 0) return output;
  const BoxTable table = box_table(arguments);
  if (image.scalar_type() != ScalarType::Byte) {
    dispatch_floating(kOp, dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      launch_output<T, T>(geometry, table, image, output, mean, std, static_cast<LevelScaling>(scaling));
    });
  } else if (dtype == ScalarType::Byte) {
    launch_output<uint8_t, uint8_t>(geometry, table, image, output, mean, std, static_cast<LevelScaling>(scaling));
  } else {
    dispatch_floating(kOp, dtype, [&](auto tag) {
      launch_output<uint8_t, typename decltype(tag)::type>(geometry, table, image, output, mean, std,
                                                           static_cast<LevelScaling>(scaling));
    });
  }
  return output;
}

Tensor resized_crop_backward_cuda(const Tensor& grad_output,                      // [N, C, height, width]
                                  const Tensor& image,                            // [N, C, H, W]
                                  const std::optional<Tensor>& boxes,             // [N, 4]
                                  const std::optional<Tensor>& horizontal_flips,  // [N]
                                  const std::optional<Tensor>& vertical_flips,    // [N]
                                  const std::vector<int64_t>& box, int64_t height, int64_t width, int64_t interpolation,
                                  bool antialias, ScalarType dtype, const std::vector<double>& mean,
                                  const std::vector<double>& std, int64_t memory_format, bool pillow, int64_t scaling,
                                  const std::vector<bool>& output_mask) {
  const Arguments arguments{boxes, horizontal_flips, vertical_flips, box,    height,
                            width, interpolation,    antialias,      dtype,  mean,
                            std,   memory_format,    pillow,         scaling};
  const Geometry geometry = check_derivative(image, arguments, grad_output);
  const bool wanted = as_output_mask<1>(kOp, output_mask)[0];
  const Tensor grad_image = empty_gradient(wanted, image);
  if (!wanted || grad_image.numel() == 0) return grad_image;
  const DeviceOf device(image);
  const BoxTable table = box_table(arguments);
  // Linear in the image: what is subtracted from it has no part in the gradient.
  const std::vector<double> zeros(mean.size(), 0.0);
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const MadeTables<Compute<T>> made(geometry, table, image, device, false, true);
    for_channels(geometry, zeros, std, LevelScaling::none, [&](const Statistics& statistics) {
      launch("resized_crop_grad_image", grad_image_kernel<T>, device,
             blocks_for(geometry.batch * geometry.height * geometry.width, kThreads), geometry, table, made.tables,
             statistics, view<T, 4>(grad_output), mutable_view<T, 4>(grad_image));
    });
  });
  return grad_image;
}

std::tuple<Tensor, Tensor> resized_crop_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_image,   // [N, C, H, W]
    const Tensor& grad_output,                      // [N, C, height, width]
    const Tensor& image,                            // [N, C, H, W]
    const std::optional<Tensor>& boxes,             // [N, 4]
    const std::optional<Tensor>& horizontal_flips,  // [N]
    const std::optional<Tensor>& vertical_flips,    // [N]
    const std::vector<int64_t>& box, int64_t height, int64_t width, int64_t interpolation, bool antialias,
    ScalarType dtype, const std::vector<double>& mean, const std::vector<double>& std, int64_t memory_format,
    bool pillow, int64_t scaling, const std::vector<bool>& output_mask) {
  const Arguments arguments{boxes, horizontal_flips, vertical_flips, box,    height,
                            width, interpolation,    antialias,      dtype,  mean,
                            std,   memory_format,    pillow,         scaling};
  const Geometry geometry = check_derivative(image, arguments, grad_output);
  const DoubleBackward call(geometry, arguments, grad_grad_image, image, output_mask);
  if (call.is_done()) return {call.grad_grad_output, call.grad_image};
  const std::vector<double> zeros(mean.size(), 0.0);
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_output<T, T>(geometry, box_table(arguments), *grad_grad_image, call.grad_grad_output, zeros, std,
                        LevelScaling::none);
  });
  return {call.grad_grad_output, call.grad_image};
}

}  // namespace
}  // namespace handgrad::resized_crop

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::resized_crop::resized_crop_cuda>(library, "resized_crop");
  handgrad::implement<handgrad::resized_crop::resized_crop_backward_cuda>(library, "_resized_crop_backward");
  handgrad::implement<handgrad::resized_crop::resized_crop_double_backward_cuda>(library,
                                                                                 "_resized_crop_double_backward");
}
