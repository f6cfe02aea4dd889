// RoIAlign of rotated boxes on the CPU.
//
// What a bin weighs pixels by is the same for all channels, but no product of rows and columns as it is where boxes are
// not rotated: it is a list of pixels (roi_align_rotated_taps.h), made of sampling points (roi_align_rotated_points.h).
// With a motion or a gradient of the box these are gone through one by one. Channels are innermost, in blocks over
// which all boxes of an image pass (kinds/sampled_roi_cpu.h, roi_align_rotated_passes.h).
#include "roi_align_rotated_passes.h"

namespace handgrad::roi_align_rotated {
namespace {

struct Passes {
  template <class C>
  static void forward(const Geometry& geometry, const Tensor& boxes, const Operands<C>& operands) {
    const BoxesInImages<C> in_images = boxes_in_images<C>(geometry, boxes, true);
    dispatch_width(geometry.channels, [&](auto width) {
      constexpr int64_t Width = width.value;
      for_each_box<Width>(geometry, in_images, [&] { return Forward<C, Width>(geometry, operands); });
    });
  }

  template <bool Twice, class C>
  static void differentiate(const Geometry& geometry, const Tensor& boxes, const Operands<C>& operands) {
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
};

}  // namespace
}  // namespace handgrad::roi_align_rotated

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  using namespace handgrad::roi_align_rotated;
  handgrad::sampled_roi::implement<RoiAlignRotatedOp, handgrad::sampled_roi::OnCpu<Passes>>(library);
}
