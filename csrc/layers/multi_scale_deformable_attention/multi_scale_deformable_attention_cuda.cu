// Multi-scale deformable attention on CUDA devices: a warp for each head of each query
// (multi_scale_deformable_attention_kernels.cuh), and for the gradient of the value a block for each tile of pixels
// (multi_scale_deformable_attention_grad_value.cuh). No kernel adds atomically: results are the same in every run.
//
// In order of appearance: the launches; the host entries.
#include "abi/registration.h"
#include "multi_scale_deformable_attention_grad_value.cuh"

namespace handgrad::multi_scale_deformable_attention {
namespace {

// What kernels count in 32 bits.
void check_counts(const Geometry& geometry) {
  for (const int64_t count :
       {geometry.positions, geometry.samples(), geometry.batch * geometry.queries * geometry.heads}) {
    HANDGRAD_CHECK(count <= INT32_MAX, kOp,
                   ": sampling_locations must have fewer than 2^31 positions, points, and heads of queries to look at "
                   "or from; got ",
                   count);
  }
}

template <class T>
Operands<T> operands_of(const Tensor& value, const Tensor& sampling_locations, const Tensor& attention_weights) {
  using C = Compute<T>;
  Operands<T> operands{};
  operands.value = view<T, 4>(value);
  operands.locations = view<C, 6>(sampling_locations);
  operands.weights = view<C, 5>(attention_weights);
  return operands;
}

uint32_t items_of(const Geometry& geometry) {
  return static_cast<uint32_t>(geometry.batch * geometry.queries * geometry.heads);
}

// A warp for each item.
Blocks blocks_of(const Geometry& geometry) { return blocks_for(int64_t{items_of(geometry)} * kWarpSize, kThreads); }

template <class T, bool Twice>
void launch_output(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                   const Tensor& output) {
  launch("multi_scale_deformable_attention_output", output_kernel<T, Twice>, device, blocks_of(geometry), geometry,
         operands, items_of(geometry), mutable_view<T, 3>(output));
}

template <class T, bool Twice>
void launch_backward(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                     const Tensor& grad_output, const Backward& results) {
  using C = Compute<T>;
  if (results.wants_sums()) {
    launch("multi_scale_deformable_attention_grad_samples", grad_samples_kernel<T, Twice>, device, blocks_of(geometry),
           geometry, operands, items_of(geometry), view<T, 3>(grad_output),
           mutable_view_if<C, 6>(results.wants_locations, results.grad_locations),
           mutable_view_if<C, 5>(results.wants_weights, results.grad_weights));
  }
  if (results.wants_value) {
    if (!geometry.covers_all) fill_zero(results.grad_value);
    int64_t tiles = 0;
    for (int64_t l = 0; l < geometry.level_count; ++l) tiles += Tile::count(geometry.levels[l]);
    const int64_t pieces = (geometry.channels + kWarpSize - 1) / kWarpSize;
    launch("multi_scale_deformable_attention_grad_value", grad_value_kernel<T, Twice>, device,
           Blocks{geometry.batch * geometry.heads * pieces * tiles, dim3(kThreads, 1, 1)}, geometry, operands,
           view<T, 3>(grad_output), tiles, mutable_view<T, 4>(results.grad_value));
  }
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor multi_scale_deformable_attention_cuda(const Tensor& value,               // [B, S, heads, channels]
                                             const Tensor& sampling_locations,  // [B, Q, heads, levels, points, 2]
                                             const Tensor& attention_weights,   // [B, Q, heads, levels, points]
                                             const std::vector<int64_t>& spatial_shapes,
                                             const std::vector<int64_t>& level_start_index) {
  const Geometry geometry =
      check_arguments(value, sampling_locations, attention_weights, spatial_shapes, level_start_index);
  check_counts(geometry);
  const Tensor output = empty_output(geometry, value);
  dispatch_floating(kOp, value.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_output<T, false>(geometry, DeviceOf(value), operands_of<T>(value, sampling_locations, attention_weights),
                            output);
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> multi_scale_deformable_attention_backward_cuda(
    const Tensor& grad_output,         // [B, Q, heads * channels]
    const Tensor& value,               // [B, S, heads, channels]
    const Tensor& sampling_locations,  // [B, Q, heads, levels, points, 2]
    const Tensor& attention_weights,   // [B, Q, heads, levels, points]
    const std::vector<int64_t>& spatial_shapes, const std::vector<int64_t>& level_start_index,
    const std::vector<bool>& output_mask) {
  const Geometry geometry =
      check_arguments(value, sampling_locations, attention_weights, spatial_shapes, level_start_index);
  check_counts(geometry);
  check_grad_output(geometry, grad_output, value);
  const Backward results(value, sampling_locations, attention_weights, as_output_mask<3>(kOp, output_mask));
  if (!results.is_done()) {
    dispatch_floating(kOp, value.scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      launch_backward<T, false>(geometry, DeviceOf(value), operands_of<T>(value, sampling_locations, attention_weights),
                                grad_output, results);
    });
  }
  return {results.grad_value, results.grad_locations, results.grad_weights};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> multi_scale_deformable_attention_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_value, const std::optional<Tensor>& grad_grad_sampling_locations,
    const std::optional<Tensor>& grad_grad_attention_weights,
    const Tensor& grad_output,         // [B, Q, heads * channels]
    const Tensor& value,               // [B, S, heads, channels]
    const Tensor& sampling_locations,  // [B, Q, heads, levels, points, 2]
    const Tensor& attention_weights,   // [B, Q, heads, levels, points]
    const std::vector<int64_t>& spatial_shapes, const std::vector<int64_t>& level_start_index,
    const std::vector<bool>& output_mask) {
  const Geometry geometry =
      check_arguments(value, sampling_locations, attention_weights, spatial_shapes, level_start_index);
  check_counts(geometry);
  check_grad_output(geometry, grad_output, value);
  const Directions along{grad_grad_value, grad_grad_sampling_locations, grad_grad_attention_weights};
  along.check(value, sampling_locations, attention_weights);
  const DoubleBackward results(geometry, along, value, sampling_locations, attention_weights,
                               as_output_mask<4>(kOp, output_mask));
  if (!results.is_done()) {
    dispatch_floating(kOp, value.scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      const DeviceOf device(value);
      Operands<T> operands = operands_of<T>(value, sampling_locations, attention_weights);
      operands.v_value = view<T, 4>(grad_grad_value);
      operands.v_locations = view<Compute<T>, 6>(grad_grad_sampling_locations);
      operands.v_weights = view<Compute<T>, 5>(grad_grad_attention_weights);
      if (results.wants_grad_output) launch_output<T, true>(geometry, device, operands, results.grad_grad_output);
      launch_backward<T, true>(geometry, device, operands, grad_output, results);
    });
  }
  return {results.grad_grad_output, results.grad_value, results.grad_locations, results.grad_weights};
}

}  // namespace
}  // namespace handgrad::multi_scale_deformable_attention

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::multi_scale_deformable_attention::multi_scale_deformable_attention_cuda>(
      library, "multi_scale_deformable_attention");
  handgrad::implement<handgrad::multi_scale_deformable_attention::multi_scale_deformable_attention_backward_cuda>(
      library, "_multi_scale_deformable_attention_backward");
  handgrad::implement<
      handgrad::multi_scale_deformable_attention::multi_scale_deformable_attention_double_backward_cuda>(
      library, "_multi_scale_deformable_attention_double_backward");
}
