// blur_pool_2d on CUDA devices: the kernels are cuda/fir.cuh's.
#include "blur_pool_2d_host.h"
#include "cuda/fir.cuh"

namespace handgrad::blur_pool_2d {
namespace {

struct OnCuda {
  static void run(const FirPlanes& planes, const Numbers& numbers, const Tensor& source, const Tensor& target) {
    dispatch_compute(kOp, source.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      run_fir<C>(kOp, planes, taps_of<C>(numbers), source, target);
    });
  }
};

}  // namespace
}  // namespace handgrad::blur_pool_2d

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::blur_pool_2d::implement<handgrad::blur_pool_2d::OnCuda>(library);
}
