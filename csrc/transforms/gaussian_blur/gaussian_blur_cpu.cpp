// Gaussian blur on the CPU. uint8 images are blurred in float32 and rounded once, each product and each sum by itself
// and in one order, so that all processors and devices make the same levels.
#if defined(__GNUC__) && !defined(__clang__)
// Before everything that is inlined here: GCC 12 fuses products into sums where it vectorises a loop.
#pragma GCC optimize("fp-contract=off")
#endif

#include "abi/registration.h"
#include "gaussian_blur_bands.h"

namespace handgrad {
namespace {

using namespace gaussian_blur;

void run(const Geometry& geometry, const SigmaTable& table, const Pass& pass, const Operands& operands) {
  if (operands.sources[0]->scalar_type() == ScalarType::Double) {
    run_pass<double>(geometry, table, pass, operands);
  } else {
    run_pass<float>(geometry, table, pass, operands);
  }
}

Tensor gaussian_blur_cpu(const Tensor& image,                 // [N, C, H, W]
                         const std::optional<Tensor>& sigma,  // [N, 2]
                         const std::vector<int64_t>& kernel_size, const std::vector<double>& shared_sigma) {
  const Geometry geometry = check_arguments(image, sigma, kernel_size, shared_sigma);
  const Tensor output = empty_in_layout_of(image);
  if (output.numel() == 0) return output;
  run(geometry, sigma_table(sigma, shared_sigma), value_pass(false), {{&image, nullptr}, nullptr, &output, nullptr});
  return output;
}

std::tuple<Tensor, Tensor> gaussian_blur_backward_cpu(const Tensor& grad_output,           // [N, C, H, W]
                                                      const Tensor& image,                 // [N, C, H, W]
                                                      const std::optional<Tensor>& sigma,  // [N, 2]
                                                      const std::vector<int64_t>& kernel_size,
                                                      const std::vector<double>& shared_sigma,
                                                      const std::vector<bool>& output_mask) {
  const Geometry geometry = check_derivative(image, sigma, kernel_size, shared_sigma, grad_output);
  const BackwardResults results(image, sigma, as_output_mask<2>(kOp, output_mask));
  run_backward(results, image, grad_output,
               [&](const Pass& pass, const std::optional<Tensor>& direction, const Operands& operands) {
                 run(geometry, sigma_table(sigma, shared_sigma, direction), pass, operands);
               });
  return {results.grad_image, results.grad_sigma};
}

std::tuple<Tensor, Tensor, Tensor> gaussian_blur_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_image,  // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_sigma,  // [N, 2]
    const Tensor& grad_output,                     // [N, C, H, W]
    const Tensor& image,                           // [N, C, H, W]
    const std::optional<Tensor>& sigma,            // [N, 2]
    const std::vector<int64_t>& kernel_size, const std::vector<double>& shared_sigma,
    const std::vector<bool>& output_mask) {
  const Geometry geometry = check_derivative(image, sigma, kernel_size, shared_sigma, grad_output);
  const DoubleBackwardResults results(image, sigma, grad_grad_image, grad_grad_sigma,
                                      as_output_mask<3>(kOp, output_mask));
  run_double_backward(results, image, grad_output, grad_grad_image, grad_grad_sigma,
                      [&](const Pass& pass, const std::optional<Tensor>& direction, const Operands& operands) {
                        run(geometry, sigma_table(sigma, shared_sigma, direction), pass, operands);
                      });
  return {results.grad_grad_output, results.grad_image, results.grad_sigma};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::gaussian_blur_cpu>(library, "gaussian_blur");
  handgrad::implement<handgrad::gaussian_blur_backward_cpu>(library, "_gaussian_blur_backward");
  handgrad::implement<handgrad::gaussian_blur_double_backward_cpu>(library, "_gaussian_blur_double_backward");
}
