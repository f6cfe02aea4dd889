// A chain of operations on the tones of images on the CPU: of levels tables, or bytes that are computed with; of
// numbers runs of them, all steps one after the other in the nearest cache.
#include "abi/registration.h"
#include "adjust_tones_derivatives.h"

namespace handgrad {
namespace {

using namespace adjust_tones;

Tensor adjust_tones_cpu(const Tensor& image,                      // [N, C, H, W]
                        const std::optional<Tensor>& numbers,     // [N, K]
                        const std::optional<Tensor>& operations,  // [N, K]
                        const std::vector<int64_t>& shared_operations, const std::vector<double>& shared_numbers) {
  const Arguments arguments{numbers, operations, shared_operations, shared_numbers};
  const Geometry geometry = check_arguments(image, arguments);
  const Tensor output = empty_in_layout_of(image);
  if (output.numel() == 0) return output;
  const ChainTable table = chain_table(geometry, arguments);
  if (image.scalar_type() == ScalarType::Byte) {
    LevelToner(geometry, table, image, output).run();
    return output;
  }
  dispatch_compute(kOp, image.scalar_type(),
                   [&](auto tag) { tone_numbers<typename decltype(tag)::type>(geometry, table, image, output); });
  return output;
}

Tensor adjust_tones_backward_cpu(const Tensor& grad_output,                // [N, C, H, W]
                                 const Tensor& image,                      // [N, C, H, W]
                                 const std::optional<Tensor>& numbers,     // [N, K]
                                 const std::optional<Tensor>& operations,  // [N, K]
                                 const std::vector<int64_t>& shared_operations,
                                 const std::vector<double>& shared_numbers, const std::vector<bool>& output_mask) {
  const Arguments arguments{numbers, operations, shared_operations, shared_numbers};
  const Geometry geometry = check_derivative(image, arguments, grad_output);
  const Derivative call = backward_of(grad_output, image, output_mask);
  if (call.is_done()) return call.grad_image;
  const PixelWalk walk(geometry, {&image, &grad_output, &call.grad_image});
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    Differentiator<typename decltype(tag)::type>(geometry, chain_table(geometry, arguments), walk, call).run();
  });
  return call.grad_image;
}

std::tuple<Tensor, Tensor> adjust_tones_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_image,  // [N, C, H, W]
    const Tensor& grad_output,                     // [N, C, H, W]
    const Tensor& image,                           // [N, C, H, W]
    const std::optional<Tensor>& numbers,          // [N, K]
    const std::optional<Tensor>& operations,       // [N, K]
    const std::vector<int64_t>& shared_operations, const std::vector<double>& shared_numbers,
    const std::vector<bool>& output_mask) {
  const Arguments arguments{numbers, operations, shared_operations, shared_numbers};
  const Geometry geometry = check_derivative(image, arguments, grad_output);
  const Derivative call = double_backward_of(grad_grad_image, grad_output, image, output_mask);
  if (call.is_done()) return {call.grad_grad_output, call.grad_image};
  const PixelWalk walk(
      geometry, {&image, &grad_output, call.direction ? call.direction : &image,
                 call.wants_output ? &call.grad_grad_output : &image, call.wants_image ? &call.grad_image : &image});
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Differentiator<Dual<C>>(geometry, chain_table(geometry, arguments), walk, call).run();
  });
  return {call.grad_grad_output, call.grad_image};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::adjust_tones_cpu>(library, "adjust_tones");
  handgrad::implement<handgrad::adjust_tones_backward_cpu>(library, "_adjust_tones_backward");
  handgrad::implement<handgrad::adjust_tones_double_backward_cpu>(library, "_adjust_tones_double_backward");
}
