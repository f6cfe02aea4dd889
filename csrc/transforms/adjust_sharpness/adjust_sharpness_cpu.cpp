// A blend of an image with a blurred one on the CPU: of levels the blurred one in whole numbers of 16 bits, and the
// blend in float32.
#if defined(__GNUC__) && !defined(__clang__)
// Before everything that is inlined here: GCC 12 fuses products into sums where it vectorises a loop, and an image and
// its mirror would differ. What is to be fused says so.
#pragma GCC optimize("fp-contract=off")
#endif

#include "adjust_sharpness_derivatives.h"

namespace handgrad::adjust_sharpness {

struct OnCpu {
  static void levels(const Geometry& geometry, const FactorTable& table, const Tensor& image, const Tensor& output) {
    sharpen_levels(geometry, table, image, output);
  }
  template <class C>
  static void numbers(const Geometry& geometry, const FactorTable& table, const Tensor& image, const Tensor& output) {
    sharpen_numbers<C>(geometry, table, image, output);
  }
  template <class C>
  static void gradients(const Geometry& geometry, const FactorTable& table, const Derivative& call) {
    differentiate<C>(geometry, table, call);
  }
};

}  // namespace handgrad::adjust_sharpness

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::adjust_sharpness::implement<handgrad::adjust_sharpness::OnCpu>(library);
}
