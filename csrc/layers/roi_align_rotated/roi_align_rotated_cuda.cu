// RoIAlign of rotated boxes on CUDA devices: kinds/sampled_roi.cuh launches the kernels that stand in
// roi_align_rotated_kernels.cuh and roi_align_rotated_grad_input.cuh.
#include "roi_align_rotated_grad_input.cuh"

namespace handgrad::roi_align_rotated {
namespace {

struct Kernels {
  template <class T, bool Twice>
  static constexpr auto output = output_kernel<T, Twice>;
  template <class T, bool Twice>
  static constexpr auto grad_input = grad_input_kernel<T, Twice>;
  template <class T, bool Twice>
  static constexpr auto grad_boxes = grad_boxes_kernel<T, Twice>;
};

}  // namespace
}  // namespace handgrad::roi_align_rotated

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  using namespace handgrad::roi_align_rotated;
  handgrad::sampled_roi::implement<RoiAlignRotatedOp, handgrad::sampled_roi::OnCuda<Kernels>>(library);
}
