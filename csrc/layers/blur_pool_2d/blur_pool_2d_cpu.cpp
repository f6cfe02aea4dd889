// blur_pool_2d on the CPU: the loops are cpu/fir.h's.
#include "blur_pool_2d_host.h"
#include "cpu/fir.h"

namespace handgrad::blur_pool_2d {
namespace {

struct OnCpu {
  static void run(const FirPlanes& planes, const Numbers& numbers, const Tensor& source, const Tensor& target) {
    dispatch_compute(kOp, source.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      const Taps<C> given = taps_of<C>(numbers);
      FirTaps<C> taps;
      for (int32_t t = 0; t < planes.rows.taps; ++t) {
        taps.rows.push_back(given.of_row(planes.rows.filter_index(t)));
        taps.columns.push_back(given.of_column(planes.columns.filter_index(t)));
      }
      run_fir(planes, taps, source, target);
    });
  }
};

}  // namespace
}  // namespace handgrad::blur_pool_2d

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::blur_pool_2d::implement<handgrad::blur_pool_2d::OnCpu>(library);
}
