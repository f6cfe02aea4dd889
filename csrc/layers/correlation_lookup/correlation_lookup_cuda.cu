// A lookup of correlations on CUDA devices: launches.
#include "abi/registration.h"
#include "correlation_lookup_grad_map.cuh"

namespace handgrad::correlation_lookup {
namespace {

template <class T>
Operands<T> operands_of(const Inputs& inputs) {
  Operands<T> operands;
  operands.fmap1 = view<T, 4>(inputs.fmap1), operands.fmap2 = view<T, 4>(inputs.fmap2);
  operands.coords = view<Compute<T>, 4>(inputs.coords);
  if (inputs.along.fmap1) operands.v_fmap1 = view<T, 4>(*inputs.along.fmap1);
  if (inputs.along.fmap2) operands.v_fmap2 = view<T, 4>(*inputs.along.fmap2);
  if (inputs.along.coords) operands.v_coords = view<Compute<T>, 4>(*inputs.along.coords);
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
                   const Results& results) {
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

struct OnCuda {
  template <bool Twice>
  static void run(const Inputs& inputs, const Results& results) {
    dispatch_floating(kOp, inputs.fmap1.scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      const Operands<T> operands = operands_of<T>(inputs);
      if (results.wants_output) look_up<T, Twice>(inputs.geometry, operands, results.output);
      if (inputs.grad_output) differentiate<T, Twice>(inputs.geometry, operands, *inputs.grad_output, results);
    });
  }
};

}  // namespace
}  // namespace handgrad::correlation_lookup

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::correlation_lookup::implement<handgrad::correlation_lookup::OnCuda>(library);
}
