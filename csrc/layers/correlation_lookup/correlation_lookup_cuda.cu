// A lookup of correlations on CUDA devices: launches, and the host entries.
#include "abi/registration.h"
#include "correlation_lookup_grad_map.cuh"

namespace handgrad {
namespace {

using namespace correlation_lookup;

template <class T>
Operands<T> operands_of(const Tensor& fmap1, const Tensor& fmap2, const Tensor& coords, const Directions& along) {
  Operands<T> operands;
  operands.fmap1 = view<T, 4>(fmap1), operands.fmap2 = view<T, 4>(fmap2);
  operands.coords = view<Compute<T>, 4>(coords);
  if (along.fmap1) operands.v_fmap1 = view<T, 4>(*along.fmap1);
  if (along.fmap2) operands.v_fmap2 = view<T, 4>(*along.fmap2);
  if (along.coords) operands.v_coords = view<Compute<T>, 4>(*along.coords);
  return operands;
}

// A warp for each pixel, and so many windows of numbers in shared memory for each warp.
Blocks warps_for(const Geometry& geometry, int64_t pixels, int64_t windows, size_t bytes_of_a_number) {
  const int64_t bytes = windows * geometry.window() * static_cast<int64_t>(bytes_of_a_number);
  int64_t warps = kWarps;
  while (warps > 1 && warps * bytes > kSharedWithoutAsking) warps /= 2;
  return {(pixels + warps - 1) / warps, dim3(static_cast<unsigned>(warps * kWarpSize)), warps * bytes};
}

template <class T, bool Twice>
void look_up(const Geometry& geometry, const Operands<T>& operands, const Tensor& output) {
  if (output.numel() == 0) return;
  const int64_t pixels = geometry.batch * geometry.height * geometry.width;
  launch("output_kernel", output_kernel<T, Twice>, DeviceOf(output),
         warps_for(geometry, pixels, Twice ? 2 : 1, sizeof(Compute<T>)), geometry, operands, pixels,
         mutable_view<T, 4>(output));
}

template <class T, bool Twice>
void differentiate(const Geometry& geometry, const Operands<T>& operands, const Tensor& grad_output,
                   const Gradients& results) {
  const int64_t pixels = geometry.batch * geometry.height * geometry.width;
  const DeviceOf device(grad_output);
  const View<const T, 4> grad = view<T, 4>(grad_output);
  const Blocks blocks = warps_for(geometry, pixels, Twice ? 2 : 1, sizeof(Compute<T>));
  if (results.wants_fmap1 && results.fmap1.numel() > 0) {
    launch("grad_features_kernel", grad_features_kernel<T, Twice>, device, blocks, geometry, operands, pixels, grad,
           mutable_view<T, 4>(results.fmap1));
  }
  if (results.wants_coords && pixels > 0) {
    launch("grad_coords_kernel", grad_coords_kernel<T, Twice>, device, blocks, geometry, operands, pixels, grad,
           mutable_view<Compute<T>, 4>(results.coords));
  }
  if (results.wants_fmap2 && results.fmap2.numel() > 0) {
    const int64_t tiles =
        ((geometry.map_height + kTileRows - 1) / kTileRows) * ((geometry.map_width + kTileColumns - 1) / kTileColumns);
    const int64_t pieces = (geometry.channels + kWarpSize - 1) / kWarpSize;
    HANDGRAD_CHECK(geometry.height * geometry.width <= INT32_MAX, kOp, ": fmap1 must have below 2^31 pixels; got ",
                   geometry.height, " x ", geometry.width);
    launch("grad_map_kernel", grad_map_kernel<T, Twice>, device,
           Blocks{geometry.batch * pieces * tiles, dim3(kMapThreads)}, geometry, operands, grad, tiles,
           mutable_view<T, 4>(results.fmap2));
  }
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor correlation_lookup_cuda(const Tensor& fmap1,   // [N, C, H, W]
                               const Tensor& fmap2,   // [N, C, H2, W2]
                               const Tensor& coords,  // [N, 2, H, W]
                               int64_t radius) {
  const Geometry geometry = check_arguments(fmap1, fmap2, coords, radius);
  const Tensor output = empty_output(geometry, fmap1);
  dispatch_floating(kOp, fmap1.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    look_up<T, false>(geometry, operands_of<T>(fmap1, fmap2, coords, {}), output);
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> correlation_lookup_backward_cuda(const Tensor& grad_output,  // [N, outputs, H, W]
                                                                    const Tensor& fmap1,        // [N, C, H, W]
                                                                    const Tensor& fmap2,        // [N, C, H2, W2]
                                                                    const Tensor& coords,       // [N, 2, H, W]
                                                                    int64_t radius,
                                                                    const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(fmap1, fmap2, coords, radius);
  check_grad_output(geometry, grad_output, fmap1);
  const auto wanted = as_output_mask<3>(kOp, output_mask);
  const Gradients results(fmap1, fmap2, coords, wanted[0], wanted[1], wanted[2]);
  dispatch_floating(kOp, fmap1.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    differentiate<T, false>(geometry, operands_of<T>(fmap1, fmap2, coords, {}), grad_output, results);
  });
  return {results.fmap1, results.fmap2, results.coords};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> correlation_lookup_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_fmap1,   // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_fmap2,   // [N, C, H2, W2]
    const std::optional<Tensor>& grad_grad_coords,  // [N, 2, H, W]
    const Tensor& grad_output,                      // [N, outputs, H, W]
    const Tensor& fmap1,                            // [N, C, H, W]
    const Tensor& fmap2,                            // [N, C, H2, W2]
    const Tensor& coords,                           // [N, 2, H, W]
    int64_t radius, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(fmap1, fmap2, coords, radius);
  check_grad_output(geometry, grad_output, fmap1);
  const Directions along(grad_grad_fmap1, grad_grad_fmap2, grad_grad_coords);
  along.check(fmap1, fmap2, coords);
  const auto wanted = as_output_mask<4>(kOp, output_mask);
  const Tensor grad_grad_output = wanted[0] ? empty_output(geometry, fmap1) : empty_placeholder(fmap1);
  const Gradients results(fmap1, fmap2, coords, wanted[1], wanted[2], wanted[3]);
  dispatch_floating(kOp, fmap1.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Operands<T> operands = operands_of<T>(fmap1, fmap2, coords, along);
    if (wanted[0]) look_up<T, true>(geometry, operands, grad_grad_output);
    differentiate<T, true>(geometry, operands, grad_output, results);
  });
  return {grad_grad_output, results.fmap1, results.fmap2, results.coords};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::correlation_lookup_cuda>(library, "correlation_lookup");
  handgrad::implement<handgrad::correlation_lookup_backward_cuda>(library, "_correlation_lookup_backward");
  handgrad::implement<handgrad::correlation_lookup_double_backward_cuda>(library,
                                                                         "_correlation_lookup_double_backward");
}
