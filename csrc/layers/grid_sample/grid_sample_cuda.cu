// grid_sample on CUDA devices.
//
// Forward: a thread for a point and a few channels, which share its taps. The gradient of the input is gathered by
// tiles (grid_sample_grad_input.cuh): nothing is atomic, the order of every sum is that of the points, on every run,
// and each number of the result is written once. The gradient of the grid is a thread for each point. All other kernels
// are in grid_sample_kernels.cuh.
#include "abi/registration.h"
#include "grid_sample_grad_input.cuh"

namespace handgrad::grid_sample {
namespace {

// ---- launches -------------------------------------------------------------------------------------------------------

template <class T>
Operands<T> operands_of(const Geometry& geometry, const ChannelTensor& input, const GridTensor& grid) {
  Operands<T> operands;
  for (int d = 0; d < 3; ++d) operands.axes[d] = Axis<Compute<T>>(geometry.size[d], geometry.align_corners);
  operands.input = input.view<T>(), operands.grid = grid.view<Compute<T>>();
  return operands;
}

template <class T, bool Twice>
void launch_output(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                   const Tensor& output) {
  const int64_t groups = (geometry.channels + kChannels - 1) / kChannels;
  const ChannelTensor result(output);
  launch("grid_sample_output", output_kernel<T, Twice>, device,
         blocks_for(geometry.batch * groups * geometry.points, kThreads), geometry, operands, groups,
         result.channels_innermost(), result.mutable_view<T>());
}

template <class T, bool Twice>
void launch_grad_input(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                       const ChannelTensor& grad_output, const Tensor& grad_input) {
  HANDGRAD_CHECK(geometry.points <= INT32_MAX, kOp, ": grid must have fewer than 2^31 points in an image; got ",
                 geometry.points);
  const int64_t runs = Boxes::count(geometry.points), rows = Boxes::count(runs);
  // Three indices are six halves.
  const Tensor memory = empty_indices(3 * geometry.batch * (runs + rows), grad_input);
  const Boxes boxes{runs, rows, reinterpret_cast<int32_t*>(memory.mutable_data_ptr<int64_t>())};
  const auto warps_for = [](int64_t count) { return Blocks{(count + kWarps - 1) / kWarps, dim3(kThreads, 1, 1)}; };
  launch("grid_sample_run_boxes", run_boxes_kernel<T>, device, warps_for(geometry.batch * runs), geometry, operands,
         boxes);
  launch("grid_sample_row_boxes", row_boxes_kernel, device, warps_for(geometry.batch * rows), geometry.batch, boxes);
  const Tiles tiles(geometry);
  const int64_t slabs = (geometry.channels + kWarpSize - 1) / kWarpSize;
  launch("grid_sample_grad_input", grad_input_kernel<T, Twice>, device,
         {slabs * geometry.batch * tiles.count, dim3(kThreads, 1, 1)}, geometry, operands, boxes, tiles,
         grad_output.view<T>(), ChannelTensor(grad_input).mutable_view<T>());
}

template <class T, bool Twice>
void launch_grad_grid(const Geometry& geometry, const DeviceOf& device, const Operands<T>& operands,
                      const ChannelTensor& grad_output, const Tensor& grad_grid) {
  launch("grid_sample_grad_grid", grad_grid_kernel<T, Twice>, device,
         blocks_for(geometry.batch * geometry.points, kThreads), geometry, operands, grad_output.view<T>(),
         points_of<Compute<T>>(true, geometry, grad_grid));
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor grid_sample_cuda(const Tensor& input,  // [N, C, (D,) H, W]
                        const Tensor& grid,   // [N, (Do,) Ho, Wo, 2 or 3]
                        int64_t mode, int64_t padding_mode, bool align_corners) {
  const Geometry geometry = check_arguments(input, grid, mode, padding_mode, align_corners);
  const Tensor output = empty_output(geometry, input, grid);
  if (output.numel() == 0) return output;
  const DeviceOf device(input);
  const ChannelTensor image(input);
  const GridTensor points(grid);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_output<T, false>(geometry, device, operands_of<T>(geometry, image, points), output);
  });
  return output;
}

std::tuple<Tensor, Tensor> grid_sample_backward_cuda(const Tensor& grad_output,  // [N, C, (Do,) Ho, Wo]
                                                     const Tensor& input,        // [N, C, (D,) H, W]
                                                     const Tensor& grid,         // [N, (Do,) Ho, Wo, 2 or 3]
                                                     int64_t mode, int64_t padding_mode, bool align_corners,
                                                     const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, grid, mode, padding_mode, align_corners);
  check_grad_output(geometry, grad_output, input, grid);
  const auto mask = as_output_mask<2>(kOp, output_mask);
  const Results results(geometry, input, grid, {false, mask[0], mask[1]});
  if (results.is_done()) return {results.grad_input, results.gradient_of(grid)};
  const DeviceOf device(input);
  const ChannelTensor image(input), gradient(grad_output);
  const GridTensor points(grid);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Operands<T> operands = operands_of<T>(geometry, image, points);
    if (results.wants_input) launch_grad_input<T, false>(geometry, device, operands, gradient, results.grad_input);
    if (results.wants_grid) launch_grad_grid<T, false>(geometry, device, operands, gradient, results.grad_grid);
  });
  return {results.grad_input, results.gradient_of(grid)};
}

std::tuple<Tensor, Tensor, Tensor> grid_sample_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_input,  // [N, C, (D,) H, W]
    const std::optional<Tensor>& grad_grad_grid,   // [N, (Do,) Ho, Wo, 2 or 3]
    const Tensor& grad_output,                     // [N, C, (Do,) Ho, Wo]
    const Tensor& input,                           // [N, C, (D,) H, W]
    const Tensor& grid,                            // [N, (Do,) Ho, Wo, 2 or 3]
    int64_t mode, int64_t padding_mode, bool align_corners, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, grid, mode, padding_mode, align_corners);
  check_grad_output(geometry, grad_output, input, grid);
  const Directions along(geometry, grad_grad_input, grad_grad_grid, input, grid);
  Results results(geometry, input, grid, as_output_mask<3>(kOp, output_mask));
  results.clear_without(along.input.has_value(), along.grid.has_value());
  if (results.is_done()) return {results.grad_grad_output, results.grad_input, results.gradient_of(grid)};
  const DeviceOf device(input);
  const ChannelTensor image(input), gradient(grad_output), v_image(along.input ? *along.input : input);
  const GridTensor points(grid), v_points(along.grid ? *along.grid : grid);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Operands<T> operands = operands_of<T>(geometry, image, points);
    if (results.wants_output && !along.grid) {
      // The output is linear in the input.
      launch_output<T, false>(geometry, device, operands_of<T>(geometry, v_image, points), results.grad_grad_output);
    }
    if (along.input) operands.v_input = v_image.view<T>();
    if (along.grid) operands.v_grid = v_points.view<Compute<T>>();
    if (results.wants_output && along.grid) {
      launch_output<T, true>(geometry, device, operands, results.grad_grad_output);
    }
    if (results.wants_input) launch_grad_input<T, true>(geometry, device, operands, gradient, results.grad_input);
    if (results.wants_grid) launch_grad_grid<T, true>(geometry, device, operands, gradient, results.grad_grid);
  });
  return {results.grad_grad_output, results.grad_input, results.gradient_of(grid)};
}

}  // namespace
}  // namespace handgrad::grid_sample

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::grid_sample::grid_sample_cuda>(library, "grid_sample");
  handgrad::implement<handgrad::grid_sample::grid_sample_backward_cuda>(library, "_grid_sample_backward");
  handgrad::implement<handgrad::grid_sample::grid_sample_double_backward_cuda>(library, "_grid_sample_double_backward");
}
