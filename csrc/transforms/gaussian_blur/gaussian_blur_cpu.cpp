// Gaussian blur on the CPU. uint8 images are blurred in float32 and rounded once, each product and each sum by itself
// and in one order, so that all processors and devices make the same levels.
#if defined(__GNUC__) && !defined(__clang__)
// Before everything that is inlined here: GCC 12 fuses products into sums where it vectorises a loop.
#pragma GCC optimize("fp-contract=off")
#endif

#include "gaussian_blur_bands.h"

namespace handgrad::gaussian_blur {

struct OnCpu {
  static void run(const Geometry& geometry, const SigmaTable& table, const Pass& pass, const Operands& operands) {
    if (operands.sources[0]->scalar_type() == ScalarType::Double) {
      run_pass<double>(geometry, table, pass, operands);
    } else {
      run_pass<float>(geometry, table, pass, operands);
    }
  }
};

}  // namespace handgrad::gaussian_blur

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::gaussian_blur::implement<handgrad::gaussian_blur::OnCpu>(library);
}
