// upfirdn2d on the CPU: the loops are cpu/fir.h's.
#include "cpu/fir.h"
#include "upfirdn2d_host.h"

namespace handgrad::upfirdn2d {
namespace {

template <class C>
void write_gradient(const GradientPass& pass, const std::vector<double>& sums) {
  const FirAxis &rows = pass.planes.rows, &columns = pass.planes.columns;
  const auto at = [&](int32_t i, int32_t j) {
    return sums[static_cast<size_t>(rows.filter_index(i)) * static_cast<size_t>(columns.taps) +
                static_cast<size_t>(columns.filter_index(j))];
  };
  C* const to = pass.result->mutable_data_ptr<C>();
  const auto set = [&](int64_t index, double value) {
    to[index] = static_cast<C>(pass.gain * value) + (pass.adds ? to[index] : C(0));
  };
  if (pass.filter->dim() == 1) {
    const FirFilter<C> other = fir_filter<C>(*pass.other, nullptr, 1);
    for (int32_t j = 0; j < columns.taps; ++j) {
      set(j, product_gradient(j, columns.taps, at, [&](int32_t i) { return other.tap(i); }));
    }
  } else {
    for (int32_t i = 0; i < rows.taps; ++i) {
      for (int32_t j = 0; j < columns.taps; ++j) set(int64_t{i} * columns.taps + j, at(i, j));
    }
  }
}

struct OnCpu {
  static void run(const FilterPass& pass) {
    dispatch_compute(kOp, pass.source->scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      const FirTaps<C> taps = fir_taps(pass.planes, fir_filter<C>(*pass.filter, pass.direction, pass.gain));
      run_fir(pass.planes, taps, *pass.source, *pass.target, pass.plus);
    });
  }
  static void run(const GradientPass& pass) {
    dispatch_compute(kOp, pass.source->scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      write_gradient<C>(pass, fir_tap_gradient<C>(pass.planes, *pass.grad_output, *pass.source));
    });
  }
};

}  // namespace
}  // namespace handgrad::upfirdn2d

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::upfirdn2d::implement<handgrad::upfirdn2d::OnCpu>(library);
}
