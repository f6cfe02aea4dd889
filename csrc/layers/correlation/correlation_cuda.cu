// A correlation on CUDA devices: plans of blocks. Every element of a result is one thread's, which adds in one order.
#include "abi/registration.h"
#include "correlation_kernels.cuh"

namespace handgrad::correlation {
namespace {

constexpr int64_t kSharedBytes = 40 * 1024;

int64_t pieces_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

// `pairs`: one pair of maps, or two whose correlations are added.
template <class T>
void fill_outputs(const Geometry& geometry, const std::vector<Pair>& pairs, const Tensor& output) {
  if (output.numel() == 0) return;
  const Columns columns(geometry.x.stride, geometry.x.step);
  OutputPlan plan{};
  plan.down = pieces_of(geometry.y.displacements(), kMostWarps);
  plan.warps = static_cast<int32_t>(pieces_of(geometry.y.displacements(), plan.down));
  plan.across = pieces_of(geometry.x.out, kWarpSize), plan.some = pieces_of(geometry.x.displacements(), kAtATime);
  const int64_t bytes = (kWarpSize + plan.warps * columns.count) * static_cast<int64_t>(sizeof(Compute<T>));
  plan.channels = 16;
  while (plan.channels > 1 && (plan.channels * bytes > kSharedBytes || plan.channels >= 2 * geometry.channels)) {
    plan.channels /= 2;
  }
  View<const T, 4> maps[4] = {};
  for (size_t k = 0; k < pairs.size(); ++k) {
    maps[2 * k] = view<T, 4>(*pairs[k].first), maps[2 * k + 1] = view<T, 4>(*pairs[k].second);
  }
  const Blocks blocks{geometry.batch * geometry.y.out * plan.across * plan.down * plan.some,
                      dim3(static_cast<unsigned>(plan.warps * kWarpSize)), plan.channels * bytes};
  launch("correlation_kernel", correlation_kernel<T>, DeviceOf(output), blocks, geometry, plan, columns, maps[0],
         maps[1], maps[2], maps[3], mutable_view<T, 5>(output));
}

template <class T>
void fill_gradients(const Geometry& geometry, bool mirrored, const Tensor& grad_output, const Tensor& map,
                    const Tensor& result) {
  if (result.numel() == 0) return;
  const Columns columns(1, geometry.x.step);
  GradientPlan plan{};
  const auto bytes = [&] {
    return (kAtATime * kWarpSize + plan.warps * kWarpChannels * columns.count) *
           static_cast<int64_t>(sizeof(Compute<T>));
  };
  plan.warps = static_cast<int32_t>(std::min<int64_t>(kMostWarps, pieces_of(geometry.channels, kWarpChannels)));
  while (plan.warps > 1 && bytes() > kSharedBytes) --plan.warps;
  plan.across = pieces_of(geometry.x.size, kWarpSize);
  plan.pieces = pieces_of(geometry.channels, plan.warps * kWarpChannels);
  const Blocks blocks{geometry.batch * geometry.y.size * plan.across * plan.pieces,
                      dim3(static_cast<unsigned>(plan.warps * kWarpSize)), bytes()};
  launch("correlation_gradient_kernel", correlation_gradient_kernel<T>, DeviceOf(result), blocks, geometry, plan,
         columns, mirrored, view<T, 5>(grad_output), view<T, 4>(map), mutable_view<T, 4>(result));
}

struct OnCuda {
  static void correlate(const Geometry& geometry, const std::vector<Pair>& pairs, const Tensor& output) {
    dispatch_floating(kOp, output.scalar_type(),
                      [&](auto tag) { fill_outputs<typename decltype(tag)::type>(geometry, pairs, output); });
  }
  static void differentiate(const Geometry& geometry, bool mirrored, const Tensor& grad_output, const Tensor& map,
                            const Tensor& result) {
    dispatch_floating(kOp, result.scalar_type(), [&](auto tag) {
      fill_gradients<typename decltype(tag)::type>(geometry, mirrored, grad_output, map, result);
    });
  }
};

}  // namespace
}  // namespace handgrad::correlation

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::correlation::implement<handgrad::correlation::OnCuda>(library);
}
