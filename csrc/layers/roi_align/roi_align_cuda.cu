// RoIAlign on CUDA devices.
//
// Forward: a thread for a bin and a few channels, which share the sampling points that it looks at.
//
// The gradient of the image is not scattered but gathered, by tiles (roi_align_grad_input.cuh). So nothing is atomic,
// the order of every sum is that of the boxes, on every run, each number of the result is written once, and there is no
// memory beside it.
//
// The gradient of the boxes is a block for each box, with sums of fixed order. All other kernels are in
// roi_align_kernels.cuh.
#include "abi/registration.h"
#include "roi_align_grad_input.cuh"

namespace handgrad::roi_align {
namespace {

// ---- launches -------------------------------------------------------------------------------------------------------

template <class T, bool Twice>
void launch_output(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                   const Tensor& output) {
  const int32_t groups = (geometry.channels + kOutputChannels - 1) / kOutputChannels;
  launch("roi_align_output", output_kernel<T, Twice>, device,
         blocks_for(int64_t{geometry.boxes} * groups * geometry.bins(), kThreads), geometry, operands, groups,
         !output.is_contiguous(), mutable_view<T, 4>(output));
}

template <class T, bool Twice>
void launch_grad_input(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                       const Tensor& grad_output, const Tensor& grad_input) {
  const int32_t tiles_h = (geometry.height + kSide - 1) / kSide, tiles_w = (geometry.width + kSide - 1) / kSide;
  const int64_t chunks = (geometry.channels + kTileChannels - 1) / kTileChannels;
  launch("roi_align_grad_input", grad_input_kernel<T, Twice>, device,
         {chunks * geometry.batch * tiles_h * tiles_w, dim3(kThreads, 1, 1)}, geometry, operands,
         view<T, 4>(grad_output), tiles_h, tiles_w, mutable_view<T, 4>(grad_input));
}

template <class T, bool Twice>
void launch_grad_boxes(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                       const Tensor& grad_output, const Tensor& grad_boxes) {
  launch("roi_align_grad_boxes", grad_boxes_kernel<T, Twice>, device, {geometry.boxes, dim3(kThreads, 1, 1)}, geometry,
         operands, view<T, 4>(grad_output), mutable_view<Compute<T>, 2>(grad_boxes));
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor roi_align_cuda(const Tensor& input,  // [N, C, H, W]
                      const Tensor& boxes,  // [K, 5]
                      int64_t pooled_h, int64_t pooled_w, double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const Geometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned);
  const Tensor output = empty_output(geometry, input);
  const DeviceOf device(input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Operands<T> operands{view<T, 4>(input), view<Compute<T>, 2>(boxes), {}, {}};
    launch_output<T, false>(geometry, device, operands, output);
  });
  return output;
}

std::tuple<Tensor, Tensor> roi_align_backward_cuda(const Tensor& grad_output,  // [K, C, pooled_h, pooled_w]
                                                   const Tensor& input,        // [N, C, H, W]
                                                   const Tensor& boxes,        // [K, 5]
                                                   int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                                                   int64_t sampling_ratio, bool aligned,
                                                   const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned);
  check_grad_output(geometry, grad_output, input);
  const RoiGradients results(input, boxes, as_output_mask<2>(kOp, output_mask));
  const DeviceOf device(input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Operands<T> operands{view<T, 4>(input), view<Compute<T>, 2>(boxes), {}, {}};
    if (results.wants_input) launch_grad_input<T, false>(geometry, device, operands, grad_output, results.grad_input);
    if (results.wants_boxes) launch_grad_boxes<T, false>(geometry, device, operands, grad_output, results.grad_boxes);
  });
  return {results.grad_input, results.grad_boxes};
}

std::tuple<Tensor, Tensor, Tensor> roi_align_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_input,  // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_boxes,  // [K, 5]
    const Tensor& grad_output,                     // [K, C, pooled_h, pooled_w]
    const Tensor& input,                           // [N, C, H, W]
    const Tensor& boxes,                           // [K, 5]
    int64_t pooled_h, int64_t pooled_w, double spatial_scale, int64_t sampling_ratio, bool aligned,
    const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned);
  check_grad_output(geometry, grad_output, input);
  const RoiSecondGradients results(geometry, grad_grad_input, grad_grad_boxes, input, boxes,
                                   as_output_mask<3>(kOp, output_mask));
  const DeviceOf device(input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const View<const Compute<T>, 2> table = view<Compute<T>, 2>(boxes);
    const Operands<T> operands{view<T, 4>(input), table, view<T, 4>(grad_grad_input),
                               view<Compute<T>, 2>(grad_grad_boxes)};
    if (results.wants_grad_output && operands.v_boxes) {
      launch_output<T, true>(geometry, device, operands, results.grad_grad_output);
    } else if (results.wants_grad_output) {
      // The output is linear in the image.
      launch_output<T, false>(geometry, device, {operands.v_input, table, {}, {}}, results.grad_grad_output);
    }
    if (results.wants_input) launch_grad_input<T, true>(geometry, device, operands, grad_output, results.grad_input);
    if (results.wants_boxes) launch_grad_boxes<T, true>(geometry, device, operands, grad_output, results.grad_boxes);
  });
  return {results.grad_grad_output, results.grad_input, results.grad_boxes};
}

}  // namespace
}  // namespace handgrad::roi_align

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::roi_align::roi_align_cuda>(library, "roi_align");
  handgrad::implement<handgrad::roi_align::roi_align_backward_cuda>(library, "_roi_align_backward");
  handgrad::implement<handgrad::roi_align::roi_align_double_backward_cuda>(library, "_roi_align_double_backward");
}
