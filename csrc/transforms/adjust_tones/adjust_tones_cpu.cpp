// A chain of operations on the tones of images on the CPU: of levels tables, or bytes that are computed with; of
// numbers runs of them, all steps one after the other in the nearest cache.
#include "adjust_tones_derivatives.h"

namespace handgrad::adjust_tones {

struct OnCpu {
  static void levels(const Geometry& geometry, const Arguments& arguments, const Tensor& image, const Tensor& output) {
    LevelToner(geometry, {arguments, geometry.steps}, image, output).run();
  }
  template <class C>
  static void numbers(const Geometry& geometry, const Arguments& arguments, const Tensor& image, const Tensor& output) {
    tone_numbers<C>(geometry, {arguments, geometry.steps}, image, output);
  }
  template <class N>
  static void gradients(const Geometry& geometry, const Arguments& arguments, const Derivative& call) {
    const PixelWalk walk(geometry, {call.image, call.grad_output, call.direction ? call.direction : call.image,
                                    call.wants_output ? &call.grad_grad_output : call.image,
                                    call.wants_image ? &call.grad_image : call.image});
    Differentiator<N>(geometry, {arguments, geometry.steps}, walk, call).run();
  }
};

}  // namespace handgrad::adjust_tones

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::adjust_tones::implement<handgrad::adjust_tones::OnCpu>(library);
}
