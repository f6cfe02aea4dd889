// A chain of colour operations in one pass over memory, on the CPU: runs of pixels are split over threads, and a thread
// applies all steps to one run after the other, in the nearest cache. Contrast needs a number of the whole image first,
// the mean of its gray after the steps before: a pass of its own, which applies these and writes nothing.
//
// Derivatives walk the same runs: all steps forward, their inputs kept, and back again. What contrast's mean passes on
// to every pixel is a sum over the image too, and takes a pass of its own before the last. Second derivatives are the
// first ones, in dual numbers.
#if defined(__GNUC__) && !defined(__clang__)
// Before everything that is inlined here: GCC 12 heeds the barrier of rounded_product, but no longer where it
// vectorises a loop, and levels would be others then. What is to be fused says so.
#pragma GCC optimize("fp-contract=off")
#endif

#include "abi/registration.h"
#include "adjust_colors_derivatives.h"

namespace handgrad::adjust_colors {
namespace {

// ---- forward --------------------------------------------------------------------------------------------------------

// store(planes, run) takes what the steps have made of a run.
template <class Ops, class Store>
void apply_chains(const Geometry& geometry, const ChainTable& table, const Tensor& image, const Walk& walk,
                  const Store& store) {
  using N = typename Ops::N;
  const Source source = source_of(walk, image);
  const auto load = [&](const Run& run, Planes<N>& planes) { load_planes(source, geometry.channels, run, planes); };
  std::vector<Step<N>> steps = steps_of<N>(geometry, table);
  KeptOf<Ops> kept(geometry, walk);
  fill_means<Ops>(geometry, walk, steps, kept, load);
  walk.for_each_piece([&](int64_t begin, int64_t end) {
    Planes<N> planes;
    for (int64_t index = begin; index < end; ++index) {
      const Run run = walk.run(index);
      apply_until<Ops>(geometry.steps, geometry, steps, run, kept, load, planes);
      store(planes, run);
    }
  });
}

template <class Ops, class F>
void apply_and_normalise(const Geometry& geometry, const Arguments& arguments, const Tensor& image,
                         const Tensor& output) {
  const Normalisation<F> normalisation(
      per_channel(arguments.mean, geometry.channels), per_channel(arguments.std, geometry.channels),
      image.scalar_type() == ScalarType::Byte, static_cast<LevelScaling>(arguments.scaling));
  const Walk walk(geometry, {&image, &output});
  const Target target = target_of(walk, output);
  apply_chains<Ops>(geometry, chain_table(geometry, arguments), image, walk, [&](const auto& planes, const Run& run) {
    store_normalised(planes, normalisation, geometry.channels, run, target);
  });
}

Tensor adjust_colors_cpu(const Tensor& image,                      // [N, C, H, W]
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
  const bool is_level = image.scalar_type() == ScalarType::Byte, is_double = dtype == ScalarType::Double;
  if (is_level && dtype == ScalarType::Byte) {
    const Walk walk(geometry, {&image, &output});
    const Target target = target_of(walk, output);
    apply_chains<Levels>(
        geometry, chain_table(geometry, arguments), image, walk,
        [&](const Planes<float>& planes, const Run& run) { store_levels(planes, geometry.channels, run, target); });
  } else if (is_level && is_double) {
    apply_and_normalise<Levels, double>(geometry, arguments, image, output);
  } else if (is_level) {
    apply_and_normalise<Levels, float>(geometry, arguments, image, output);
  } else if (is_double) {
    apply_and_normalise<Numbers<double>, double>(geometry, arguments, image, output);
  } else {
    apply_and_normalise<Numbers<float>, float>(geometry, arguments, image, output);
  }
  return output;
}

// ---- derivatives ---------------------------------------------------------------------------------------------------

std::tuple<Tensor, Tensor> adjust_colors_backward_cpu(const Tensor& grad_output,                // [N, C, H, W]
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
  const Walk walk(geometry, {&image, &grad_output, results.wants_image ? &results.grad_image : &image});
  const Derivative call{&image,
                        &grad_output,
                        nullptr,
                        nullptr,
                        results.wants_image ? &results.grad_image : nullptr,
                        results.wants_factors ? &results.grad_factors : nullptr,
                        per_channel(std, geometry.channels)};
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Differentiator<C>(geometry, chain_table(geometry, arguments), walk, call).run();
  });
  return {results.grad_image, results.grad_factors};
}

std::tuple<Tensor, Tensor, Tensor> adjust_colors_double_backward_cpu(
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
  const Walk walk(geometry, {&image, &grad_output, grad_grad_image ? &*grad_grad_image : &image,
                             results.wants_output ? &results.grad_grad_output : &image,
                             results.wants_image ? &results.grad_image : &image});
  const Derivative call{&image,
                        &grad_output,
                        grad_grad_image ? &*grad_grad_image : nullptr,
                        results.wants_output ? &results.grad_grad_output : nullptr,
                        results.wants_image ? &results.grad_image : nullptr,
                        results.wants_factors ? &results.grad_factors : nullptr,
                        per_channel(std, geometry.channels)};
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Differentiator<Dual<C>>(geometry, chain_table(geometry, arguments, grad_grad_factors), walk, call).run();
  });
  return {results.grad_grad_output, results.grad_image, results.grad_factors};
}

}  // namespace
}  // namespace handgrad::adjust_colors

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::adjust_colors::adjust_colors_cpu>(library, "adjust_colors");
  handgrad::implement<handgrad::adjust_colors::adjust_colors_backward_cpu>(library, "_adjust_colors_backward");
  handgrad::implement<handgrad::adjust_colors::adjust_colors_double_backward_cpu>(library,
                                                                                  "_adjust_colors_double_backward");
}
