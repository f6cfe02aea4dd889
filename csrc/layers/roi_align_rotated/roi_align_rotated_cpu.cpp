// RoIAlign of rotated boxes on the CPU.
//
// What a bin weighs pixels by is the same for all channels, but no product of rows and columns as it is where boxes are
// not rotated: it is a list of pixels (roi_align_rotated_taps.h), made of sampling points (roi_align_rotated_points.h).
// With a motion or a gradient of the box these are gone through one by one. Channels are innermost, in blocks of a few
// vectors (cpu/channel_blocks.h). A block of an image is brought into the order (row, column, channel) if it does not
// lie so, as far as boxes reach, and then all boxes of the image pass over it (roi_align_rotated_passes.h).
//
// One block of one image is one thread's. So the gradient of the image is summed by one thread in the order of boxes,
// and its memory beside the results is one block.
#include "abi/registration.h"
#include "roi_align_rotated_passes.h"

namespace handgrad::roi_align_rotated {
namespace {
template <bool Twice, class C>
void differentiate(const Geometry& geometry, const Tensor& boxes, const Operands<C>& operands) {
  const BoxesInImages<C> in_images = boxes_in_images<C>(geometry, boxes, !Twice && !operands.grad_boxes);
  dispatch_width(geometry.channels, [&](auto width) {
    constexpr int64_t Width = width.value;
    BoxGradients<C, Width> box_gradients(geometry, static_cast<bool>(operands.grad_boxes));
    for_each_box<Width>(geometry, in_images,
                        [&] { return Differentiation<C, Width, Twice>(geometry, operands, box_gradients); });
    if (operands.grad_boxes) {
      box_gradients.store(view<C, 2>(boxes), operands.v_boxes, Twice, operands.grad_boxes);
    }
  });
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor roi_align_rotated_cpu(const Tensor& input,  // [N, C, H, W]
                             const Tensor& boxes,  // [K, 6]
                             int64_t pooled_h, int64_t pooled_w, double spatial_scale, int64_t sampling_ratio,
                             bool aligned, bool clockwise) {
  const Geometry geometry =
      check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned, clockwise);
  const Tensor output = empty_output(geometry, input);
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    const BoxesInImages<C> in_images = boxes_in_images<C>(geometry, boxes, true);
    Operands<C> operands;
    operands.input = stored_view<C, 4>(input);
    operands.output = mutable_stored_view<C, 4>(output);
    dispatch_width(geometry.channels, [&](auto width) {
      constexpr int64_t Width = width.value;
      for_each_box<Width>(geometry, in_images, [&] { return Forward<C, Width>(geometry, operands); });
    });
  });
  return output;
}

std::tuple<Tensor, Tensor> roi_align_rotated_backward_cpu(const Tensor& grad_output,  // [K, C, pooled_h, pooled_w]
                                                          const Tensor& input,        // [N, C, H, W]
                                                          const Tensor& boxes,        // [K, 6]
                                                          int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                                                          int64_t sampling_ratio, bool aligned, bool clockwise,
                                                          const std::vector<bool>& output_mask) {
  const Geometry geometry =
      check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned, clockwise);
  check_grad_output(geometry, grad_output, input);
  const RoiGradients results(input, boxes, as_output_mask<2>(kOp, output_mask));
  if (results.is_done()) return {results.grad_input, results.grad_boxes};
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands;
    operands.input = stored_view<C, 4>(input);
    operands.grad_output = stored_view<C, 4>(grad_output);
    operands.grad_input = mutable_stored_view_if<C, 4>(results.wants_input, results.grad_input);
    operands.grad_boxes = mutable_view_if<C, 2>(results.wants_boxes, results.grad_boxes);
    differentiate<false>(geometry, boxes, operands);
  });
  return {results.grad_input, results.grad_boxes};
}

std::tuple<Tensor, Tensor, Tensor> roi_align_rotated_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_input,  // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_boxes,  // [K, 6]
    const Tensor& grad_output,                     // [K, C, pooled_h, pooled_w]
    const Tensor& input,                           // [N, C, H, W]
    const Tensor& boxes,                           // [K, 6]
    int64_t pooled_h, int64_t pooled_w, double spatial_scale, int64_t sampling_ratio, bool aligned, bool clockwise,
    const std::vector<bool>& output_mask) {
  const Geometry geometry =
      check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned, clockwise);
  check_grad_output(geometry, grad_output, input);
  const RoiSecondGradients results(geometry, grad_grad_input, grad_grad_boxes, input, boxes,
                                   as_output_mask<3>(kOp, output_mask));
  if (results.is_done()) return {results.grad_grad_output, results.grad_input, results.grad_boxes};
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands;
    operands.input = stored_view<C, 4>(input);
    operands.grad_output = stored_view<C, 4>(grad_output);
    operands.v_input = stored_view<C, 4>(grad_grad_input);
    operands.v_boxes = view<C, 2>(grad_grad_boxes);
    operands.output = mutable_stored_view_if<C, 4>(results.wants_grad_output, results.grad_grad_output);
    operands.grad_input = mutable_stored_view_if<C, 4>(results.wants_input, results.grad_input);
    operands.grad_boxes = mutable_view_if<C, 2>(results.wants_boxes, results.grad_boxes);
    differentiate<true>(geometry, boxes, operands);
  });
  return {results.grad_grad_output, results.grad_input, results.grad_boxes};
}

}  // namespace
}  // namespace handgrad::roi_align_rotated

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::roi_align_rotated::roi_align_rotated_cpu>(library, "roi_align_rotated");
  handgrad::implement<handgrad::roi_align_rotated::roi_align_rotated_backward_cpu>(library,
                                                                                   "_roi_align_rotated_backward");
  handgrad::implement<handgrad::roi_align_rotated::roi_align_rotated_double_backward_cpu>(
      library, "_roi_align_rotated_double_backward");
}
