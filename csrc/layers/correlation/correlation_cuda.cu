// A correlation on CUDA devices: plans of blocks, and the host entries. Every element of a result is one thread's,
// which adds in one order.
#include "abi/registration.h"
#include "correlation_kernels.cuh"

namespace handgrad {
namespace {

using namespace correlation;

constexpr int64_t kSharedBytes = 40 * 1024;

int64_t pieces_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

// `pairs`: one pair of maps, or two whose correlations are added.
template <class T>
void correlate(const Geometry& geometry, const std::vector<std::pair<const Tensor*, const Tensor*>>& pairs,
               const Tensor& output) {
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
void differentiate(const Geometry& geometry, bool mirrored, const Tensor& grad_output, const Tensor& map,
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

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor correlation_cuda(const Tensor& input1,  // [N, C, H, W]
                        const Tensor& input2,  // [N, C, H, W]
                        const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& max_displacement,
                        const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                        const std::vector<int64_t>& dilation, const std::vector<int64_t>& dilation_patch,
                        bool normalize) {
  const Geometry geometry = check_arguments(
      input1, input2, {kernel_size, max_displacement, stride, padding, dilation, dilation_patch, normalize});
  const Tensor output = empty_output(geometry, input1);
  dispatch_floating(kOp, input1.scalar_type(),
                    [&](auto tag) { correlate<typename decltype(tag)::type>(geometry, {{&input1, &input2}}, output); });
  return output;
}

std::tuple<Tensor, Tensor> correlation_backward_cuda(
    const Tensor& grad_output,  // [N, P, Q, out_h, out_w]
    const Tensor& input1,       // [N, C, H, W]
    const Tensor& input2,       // [N, C, H, W]
    const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& max_displacement,
    const std::vector<int64_t>& stride, const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
    const std::vector<int64_t>& dilation_patch, bool normalize, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(
      input1, input2, {kernel_size, max_displacement, stride, padding, dilation, dilation_patch, normalize});
  check_grad_output(geometry, grad_output, input1);
  const Backward results(input1, input2, as_output_mask<2>(kOp, output_mask));
  dispatch_floating(kOp, input1.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (results.wants_input1) differentiate<T>(geometry, false, grad_output, input2, results.grad_input1);
    if (results.wants_input2) differentiate<T>(geometry, true, grad_output, input1, results.grad_input2);
  });
  return {results.grad_input1, results.grad_input2};
}

std::tuple<Tensor, Tensor, Tensor> correlation_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_input1,  // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_input2,  // [N, C, H, W]
    const Tensor& grad_output,                      // [N, P, Q, out_h, out_w]
    const Tensor& input1,                           // [N, C, H, W]
    const Tensor& input2,                           // [N, C, H, W]
    const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& max_displacement,
    const std::vector<int64_t>& stride, const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
    const std::vector<int64_t>& dilation_patch, bool normalize, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(
      input1, input2, {kernel_size, max_displacement, stride, padding, dilation, dilation_patch, normalize});
  check_grad_output(geometry, grad_output, input1);
  const DoubleBackward call(geometry, grad_grad_input1, grad_grad_input2, input1, input2,
                            as_output_mask<3>(kOp, output_mask));
  dispatch_floating(kOp, input1.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (call.wants_grad_output) {
      std::vector<std::pair<const Tensor*, const Tensor*>> pairs;
      if (call.direction1) pairs.push_back({&*call.direction1, &input2});
      if (call.direction2) pairs.push_back({&input1, &*call.direction2});
      correlate<T>(geometry, pairs, call.grad_grad_output);
    }
    if (call.wants_input1) differentiate<T>(geometry, false, grad_output, *call.direction2, call.grad_input1);
    if (call.wants_input2) differentiate<T>(geometry, true, grad_output, *call.direction1, call.grad_input2);
  });
  return {call.grad_grad_output, call.grad_input1, call.grad_input2};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::correlation_cuda>(library, "correlation");
  handgrad::implement<handgrad::correlation_backward_cuda>(library, "_correlation_backward");
  handgrad::implement<handgrad::correlation_double_backward_cuda>(library, "_correlation_double_backward");
}
