// upfirdn2d on CUDA devices: the kernels are cuda/fir.cuh's, but for what becomes of the sums of taps.
#include "cuda/fir.cuh"
#include "upfirdn2d_host.h"

namespace handgrad::upfirdn2d {
namespace {

// A thread for each element of the filter's gradient, from the sums of h.
template <class C>
__global__ void __launch_bounds__(kFirThreads, kMinBlocks)
    gradient_kernel(FirAxis rows, FirAxis columns, const double* sums, FirFilter<C> other, bool adds, C* result) {
  HANDGRAD_LAUNCH_BOUNDS(kFirThreads);
  const int32_t index = static_cast<int32_t>(blockIdx.x * kFirThreads + threadIdx.x);
  const int32_t count = other.is_product ? columns.taps : rows.taps * columns.taps;
  if (index >= count) return;
  const auto at = [&](int32_t i, int32_t j) {
    return load(sums + int64_t{rows.filter_index(i)} * columns.taps + columns.filter_index(j));
  };
  const int32_t row = index / columns.taps;
  const double value = other.is_product
                           ? product_gradient(index, columns.taps, at,
                                              [&](int32_t i) { return load(other.taps + i * other.strides[1]); })
                           : at(row, index - row * columns.taps);
  store(result + index, static_cast<C>(other.gain * value) + (adds ? load(result + index) : C(0)));
}

struct OnCuda {
  static void run(const FilterPass& pass) {
    dispatch_compute(kOp, pass.source->scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      const FirFilter<C> taps = fir_filter<C>(*pass.filter, pass.direction, pass.gain);
      run_fir<C>(kOp, pass.planes, taps, *pass.source, *pass.target, pass.plus);
    });
  }
  static void run(const GradientPass& pass) {
    dispatch_compute(kOp, pass.source->scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      const FirAxis &rows = pass.planes.rows, &columns = pass.planes.columns;
      const Tensor sums = fir_tap_gradient<C>(kOp, pass.planes, *pass.grad_output, *pass.source);
      const int64_t taps = int64_t{rows.taps} * columns.taps, blocks = sums.numel() / taps - 1;
      const DeviceOf device(*pass.source);
      launch(kOp, gradient_kernel<C>, device, blocks_for(pass.result->numel(), kFirThreads), rows, columns,
             sums.const_data_ptr<double>() + blocks * taps, fir_filter<C>(*pass.other, nullptr, pass.gain), pass.adds,
             pass.result->mutable_data_ptr<C>());
    });
  }
};

}  // namespace
}  // namespace handgrad::upfirdn2d

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::upfirdn2d::implement<handgrad::upfirdn2d::OnCuda>(library);
}
