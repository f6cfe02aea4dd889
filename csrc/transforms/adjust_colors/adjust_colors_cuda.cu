// A chain of colour operations on CUDA devices: one pass over the image, and for each contrast another one before it,
// which sums the gray of what the steps before have made. Where the operations are in a table on the device, every step
// may be contrast, and such a pass is launched for each; it reads no pixel of an image whose step is another.
//
// Gradients take a pass for each step whose factor or mean has one, from the last to the first, and one for the image.
// Each thread applies the steps before again: nothing of the image's size is kept.
#include "abi/registration.h"
#include "adjust_colors_kernels.cuh"

namespace handgrad::adjust_colors {
namespace {

// ---- launches -------------------------------------------------------------------------------------------------------

int64_t sum_blocks(const Geometry& geometry) {
  return std::min(kSumBlocks, (geometry.pixels() + kThreads - 1) / kThreads);
}

template <class In>
Source<In> source_of(const Tensor& image) {
  if constexpr (std::is_same_v<In, uint8_t>) {
    return {view<uint8_t, 4>(image)};
  } else {
    return {stored_view<In, 4>(image), {}};
  }
}

Statistics statistics_of(const Geometry& geometry, const std::vector<double>& mean, const std::vector<double>& std,
                         LevelScaling scaling) {
  return handgrad::statistics_of(per_channel(mean, geometry.channels), per_channel(std, geometry.channels), scaling, 0,
                                 geometry.channels);
}

// A chain on the device, and the memory of what kernels find out of it: the means first.
template <class In, class N>
struct DeviceChain {
  const Geometry& geometry;
  const Arguments& arguments;
  const DeviceOf& device;
  Tensor found, sums;
  Chain chain;
  // Those of a block.
  static constexpr int kSums = sizeof(In) == 1 ? kLaneSums : 2;

  DeviceChain(const Geometry& geometry, const Arguments& arguments, const ChainTable& table, const Tensor& image,
              const DeviceOf& device, const Source<In>& source)
      : geometry(geometry), arguments(arguments), device(device) {
    chain.table = table, chain.found = nullptr;
    bool has_means = false;
    for (int64_t k = 0; k < geometry.steps; ++k) has_means |= may_have_mean(arguments, k);
    if (!has_means) return;
    allocate(image);
    for (int64_t k = 0; k < geometry.steps; ++k) {
      if (!may_have_mean(arguments, k)) continue;
      const int64_t blocks = sum_blocks(geometry);
      launch("adjust_colors_gray_sums", gray_sums_kernel<In, N, kSums>, device, grid(blocks), geometry, chain, source,
             k, blocks, sums.template mutable_data_ptr<double>());
      fold<kSums>({k, blocks, 0, 0}, {});
    }
  }

  // Once, and only where there is something to be found.
  void allocate(const Tensor& image) {
    if (chain.found) return;
    found = empty_vector<double>(geometry.batch * geometry.steps * kFound, image);
    sums = empty_vector<double>(geometry.batch * sum_blocks(geometry) * std::max(kSums, kFound), image);
    fill_zero(found);
    chain.found = found.template mutable_data_ptr<double>();
  }

  Blocks grid(int64_t blocks) const { return {geometry.batch * blocks, dim3(kThreads, 1, 1)}; }

  template <int Q>
  void fold(const Fold& fold, const View<double, 2>& grad_factors) {
    launch("adjust_colors_fold", fold_kernel<Q>, device, blocks_for(geometry.batch, kThreads), geometry, chain, fold,
           sums.template const_data_ptr<double>(), grad_factors);
  }
};

// ---- host entries ---------------------------------------------------------------------------------------------------

template <class In, class N, class Out>
void launch_output(const Geometry& geometry, const Arguments& arguments, const Tensor& image, const Tensor& output) {
  const DeviceOf device(image);
  const Source<In> source = source_of<In>(image);
  const DeviceChain<In, N> made(geometry, arguments, chain_table(geometry, arguments), image, device, source);
  launch("adjust_colors_output", output_kernel<In, Out>, device,
         blocks_for(geometry.batch * geometry.pixels(), kThreads), geometry, made.chain,
         statistics_of(geometry, arguments.mean, arguments.std, static_cast<LevelScaling>(arguments.scaling)), source,
         mutable_view<Out, 4>(output));
}

Tensor adjust_colors_cuda(const Tensor& image,                      // [N, C, H, W]
                          const std::optional<Tensor>& factors,     // [N, K]
                          const std::optional<Tensor>& operations,  // [N, K]
                          const std::vector<int64_t>& shared_operations, const std::vector<double>& shared_factors,
                          ScalarType dtype, const std::vector<double>& mean, const std::vector<double>& std,
                          int64_t memory_format, int64_t scaling) {
  const Arguments arguments{factors, operations, shared_operations, shared_factors, dtype,
                            mean,    std,        memory_format,     scaling};
  const Geometry geometry = check_arguments(image, arguments);
  const Tensor output = empty_output(image, arguments);
  if (output.numel() == 0) return output;
  if (image.scalar_type() != ScalarType::Byte) {
    dispatch_floating(kOp, dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      launch_output<Compute<T>, Compute<T>, T>(geometry, arguments, image, output);
    });
  } else if (dtype == ScalarType::Byte) {
    launch_output<uint8_t, float, uint8_t>(geometry, arguments, image, output);
  } else {
    dispatch_floating(kOp, dtype, [&](auto tag) {
      launch_output<uint8_t, float, typename decltype(tag)::type>(geometry, arguments, image, output);
    });
  }
  return output;
}

// Both derivatives: in plain numbers the first, in dual ones, along the directions, the second.
template <class N>
void launch_gradients(const Geometry& geometry, const Arguments& arguments, const Tensor& grad_output,
                      const Tensor& image, const std::optional<Tensor>& grad_grad_image,
                      const std::optional<Tensor>& grad_grad_factors, const BackwardResults& results,
                      const Tensor* grad_grad_output) {
  using C = Plain<N>;
  const DeviceOf device(image);
  const Source<N> source{stored_view<C, 4>(image), stored_view<C, 4>(grad_grad_image)};
  const StoredView<const C, 4> grads = stored_view<C, 4>(grad_output);
  // What is added to an image has no part in its gradient.
  const Statistics statistics =
      statistics_of(geometry, std::vector<double>(arguments.mean.size()), arguments.std, LevelScaling::none);
  DeviceChain<N, N> made(geometry, arguments, chain_table(geometry, arguments, grad_grad_factors), image, device,
                         source);
  if (geometry.steps > 0) made.allocate(image);
  for (int64_t k = geometry.steps; k-- > 0;) {
    if (!results.wants_factors && !may_have_mean(arguments, k)) continue;
    const int64_t blocks = sum_blocks(geometry);
    launch("adjust_colors_contributions", contributions_kernel<N>, device, made.grid(blocks), geometry, made.chain,
           source, grads, statistics, k, blocks, made.sums.template mutable_data_ptr<double>());
    const int factor = std::is_same_v<N, C> ? 2 : 3;
    made.template fold<4>({k, blocks, 2, factor},
                          mutable_view_if<double, 2>(results.wants_factors, results.grad_factors));
  }
  if (!results.wants_image && !grad_grad_output) return;
  launch("adjust_colors_gradients", gradients_kernel<N>, device,
         blocks_for(geometry.batch * geometry.pixels(), kThreads), geometry, made.chain, source, grads, statistics,
         mutable_stored_view_if<C, 4>(results.wants_image, results.grad_image),
         grad_grad_output ? mutable_stored_view<C, 4>(*grad_grad_output) : StoredView<C, 4>{});
}

std::tuple<Tensor, Tensor> adjust_colors_backward_cuda(const Tensor& grad_output,                // [N, C, H, W]
                                                       const Tensor& image,                      // [N, C, H, W]
                                                       const std::optional<Tensor>& factors,     // [N, K]
                                                       const std::optional<Tensor>& operations,  // [N, K]
                                                       const std::vector<int64_t>& shared_operations,
                                                       const std::vector<double>& shared_factors, ScalarType dtype,
                                                       const std::vector<double>& mean, const std::vector<double>& std,
                                                       int64_t memory_format, int64_t scaling,
                                                       const std::vector<bool>& output_mask) {
  const Arguments arguments{factors, operations, shared_operations, shared_factors, dtype,
                            mean,    std,        memory_format,     scaling};
  const Geometry geometry = check_derivative(image, arguments, grad_output);
  const BackwardResults results(image, factors, as_output_mask<2>(kOp, output_mask));
  if (results.is_done(image)) return {results.grad_image, results.grad_factors};
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    launch_gradients<C>(geometry, arguments, grad_output, image, std::nullopt, std::nullopt, results, nullptr);
  });
  return {results.grad_image, results.grad_factors};
}

std::tuple<Tensor, Tensor, Tensor> adjust_colors_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_image,    // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_factors,  // [N, K]
    const Tensor& grad_output,                       // [N, C, H, W]
    const Tensor& image,                             // [N, C, H, W]
    const std::optional<Tensor>& factors,            // [N, K]
    const std::optional<Tensor>& operations,         // [N, K]
    const std::vector<int64_t>& shared_operations, const std::vector<double>& shared_factors, ScalarType dtype,
    const std::vector<double>& mean, const std::vector<double>& std, int64_t memory_format, int64_t scaling,
    const std::vector<bool>& output_mask) {
  const Arguments arguments{factors, operations, shared_operations, shared_factors, dtype,
                            mean,    std,        memory_format,     scaling};
  const Geometry geometry = check_derivative(image, arguments, grad_output);
  const DoubleBackwardResults results(image, factors, grad_grad_image, grad_grad_factors,
                                      as_output_mask<3>(kOp, output_mask));
  if (results.is_done(image)) return {results.grad_grad_output, results.grad_image, results.grad_factors};
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    launch_gradients<Dual<C>>(geometry, arguments, grad_output, image, grad_grad_image, grad_grad_factors, results,
                              results.wants_output ? &results.grad_grad_output : nullptr);
  });
  return {results.grad_grad_output, results.grad_image, results.grad_factors};
}

}  // namespace
}  // namespace handgrad::adjust_colors

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::adjust_colors::adjust_colors_cuda>(library, "adjust_colors");
  handgrad::implement<handgrad::adjust_colors::adjust_colors_backward_cuda>(library, "_adjust_colors_backward");
  handgrad::implement<handgrad::adjust_colors::adjust_colors_double_backward_cuda>(library,
                                                                                   "_adjust_colors_double_backward");
}
