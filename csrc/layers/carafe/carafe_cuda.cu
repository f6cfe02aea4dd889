// A reassembly of features on CUDA devices: plans of blocks. Every element of a result is one thread's, which adds in
// one order.
#include "abi/registration.h"
#include "carafe_kernels.cuh"

namespace handgrad::carafe {
namespace {

int64_t pieces_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

Plan plan_of(const Geometry& geometry) {
  const int64_t warps = pieces_of(geometry.group_channels(), kThreadChannels);
  return {static_cast<int32_t>(std::min<int64_t>(warps, kMostWarps)), pieces_of(geometry.width, kWarpSize),
          pieces_of(geometry.group_channels(), kBlockChannels)};
}

Blocks blocks_of(int64_t count, int32_t warps) { return {count, dim3(static_cast<unsigned>(warps * kWarpSize)), 0}; }

// `pairs`: one pair of features and weights, or two whose outputs are added.
template <class T>
void fill_outputs(const Geometry& geometry, const std::vector<Pair>& pairs, const Tensor& output) {
  if (output.numel() == 0) return;
  const Plan plan = plan_of(geometry);
  const int64_t parts = pieces_of(geometry.shares(), kOutputs);
  View<const T, 4> tensors[4] = {};
  for (size_t k = 0; k < pairs.size(); ++k) {
    tensors[2 * k] = view<T, 4>(*pairs[k].first), tensors[2 * k + 1] = view<T, 4>(*pairs[k].second);
  }
  const int64_t count = geometry.batch * geometry.height * plan.across * parts * geometry.groups * plan.pieces;
  launch("carafe_kernel", carafe_kernel<T>, DeviceOf(output), blocks_of(count, plan.warps), geometry, plan, parts,
         tensors[0], tensors[1], tensors[2], tensors[3], mutable_view<T, 4>(output));
}

template <class T>
void fill_feature_gradients(const Geometry& geometry, const Tensor& grad_output, const Tensor& masks,
                            const Tensor& result) {
  if (result.numel() == 0) return;
  const Plan plan = plan_of(geometry);
  const int64_t down = pieces_of(geometry.height, kRows);
  const int64_t count = geometry.batch * down * plan.across * geometry.groups * plan.pieces;
  launch("carafe_features_kernel", carafe_features_kernel<T>, DeviceOf(result), blocks_of(count, plan.warps), geometry,
         plan, down, view<T, 4>(grad_output), view<T, 4>(masks), mutable_view<T, 4>(result));
}

template <class T>
void fill_mask_gradients(const Geometry& geometry, const Tensor& grad_output, const Tensor& features,
                         const Tensor& result) {
  if (result.numel() == 0) return;
  MaskPlan plan{};
  plan.down = pieces_of(geometry.kernel, kMostWarps);
  plan.warps = static_cast<int32_t>(pieces_of(geometry.kernel, plan.down));
  plan.across = pieces_of(geometry.width, kWarpSize);
  plan.taps = pieces_of(geometry.kernel, kTaps), plan.outputs = pieces_of(geometry.shares(), kOutputs);
  const int64_t count = geometry.batch * geometry.height * plan.across * plan.down * plan.taps * plan.outputs;
  launch("carafe_masks_kernel", carafe_masks_kernel<T>, DeviceOf(result),
         blocks_of(count * geometry.groups, plan.warps), geometry, plan, view<T, 4>(grad_output), view<T, 4>(features),
         mutable_view<T, 4>(result));
}

struct OnCuda {
  static void reassemble(const Geometry& geometry, const std::vector<Pair>& pairs, const Tensor& output) {
    dispatch_floating(kOp, output.scalar_type(),
                      [&](auto tag) { fill_outputs<typename decltype(tag)::type>(geometry, pairs, output); });
  }
  static void differentiate_features(const Geometry& geometry, const Tensor& grad_output, const Tensor& masks,
                                     const Tensor& result) {
    dispatch_floating(kOp, result.scalar_type(), [&](auto tag) {
      fill_feature_gradients<typename decltype(tag)::type>(geometry, grad_output, masks, result);
    });
  }
  static void differentiate_masks(const Geometry& geometry, const Tensor& grad_output, const Tensor& features,
                                  const Tensor& result) {
    dispatch_floating(kOp, result.scalar_type(), [&](auto tag) {
      fill_mask_gradients<typename decltype(tag)::type>(geometry, grad_output, features, result);
    });
  }
};

}  // namespace
}  // namespace handgrad::carafe

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::carafe::implement<handgrad::carafe::OnCuda>(library);
}
