// An image read at the positions that a matrix makes of the output's, on the CPU: rows of all outputs are split over
// threads (warp_rows.h); derivatives go through the output pixel by pixel (warp_derivatives.h).
#if defined(__GNUC__) && !defined(__clang__)
// Before everything that is inlined here: GCC 12 heeds the barrier of rounded_product, but no longer where it
// vectorises a loop, and levels would be others then. What is to be fused says so.
#pragma GCC optimize("fp-contract=off")
#endif

#include "abi/registration.h"
#include "warp_derivatives.h"
#include "warp_rows.h"

namespace handgrad {
namespace {

using namespace warp;

Tensor warp_cpu(const Tensor& image,                  // [N, C, H, W]
                const std::optional<Tensor>& matrix,  // [N, 2 or 3, 3]
                const std::vector<double>& numbers, int64_t height, int64_t width, int64_t interpolation,
                const std::vector<double>& fill, bool centered) {
  const Arguments arguments{matrix, numbers, height, width, interpolation, fill, centered};
  const Frame frame = check_arguments(image, arguments);
  const Tensor output = empty_output(frame, image);
  if (output.numel() == 0) return output;
  const MatrixTable table = matrix_table(arguments);
  if (image.scalar_type() == ScalarType::Byte) {
    read_images<uint8_t>(frame, table, fill, image, output);
  } else {
    dispatch_floating(kOp, image.scalar_type(),
                      [&](auto tag) { read_images<typename decltype(tag)::type>(frame, table, fill, image, output); });
  }
  return output;
}

std::tuple<Tensor, Tensor> warp_backward_cpu(const Tensor& grad_output,            // [N, C, height, width]
                                             const Tensor& image,                  // [N, C, H, W]
                                             const std::optional<Tensor>& matrix,  // [N, 2 or 3, 3]
                                             const std::vector<double>& numbers, int64_t height, int64_t width,
                                             int64_t interpolation, const std::vector<double>& fill, bool centered,
                                             const std::vector<bool>& output_mask) {
  const Arguments arguments{matrix, numbers, height, width, interpolation, fill, centered};
  const Frame frame = check_derivative(image, arguments, grad_output);
  const std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  Results results(frame, arguments, image, {false, wanted[0], wanted[1]});
  if (results.is_done(frame)) return {results.grad_image, results.grad_matrix};
  const MatrixTable table = matrix_table(arguments);
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Operands<T> operands{view<T, 4>(image),
                               {},
                               view<T, 4>(grad_output),
                               {},
                               mutable_view_if<T, 4>(results.wants_image, results.grad_image),
                               mutable_view_if<double, 3>(results.wants_matrix, results.grad_matrix),
                               fill};
    Differentiator<T, Compute<T>>(frame, table, operands).run();
  });
  return {results.grad_image, results.grad_matrix};
}

std::tuple<Tensor, Tensor, Tensor> warp_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_image,   // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_matrix,  // [N, 2 or 3, 3]
    const Tensor& grad_output,                      // [N, C, height, width]
    const Tensor& image,                            // [N, C, H, W]
    const std::optional<Tensor>& matrix,            // [N, 2 or 3, 3]
    const std::vector<double>& numbers, int64_t height, int64_t width, int64_t interpolation,
    const std::vector<double>& fill, bool centered, const std::vector<bool>& output_mask) {
  const Arguments arguments{matrix, numbers, height, width, interpolation, fill, centered};
  const Frame frame = check_derivative(image, arguments, grad_output);
  check_directions(image, arguments, grad_grad_image, grad_grad_matrix);
  Results results(frame, arguments, image, as_output_mask<3>(kOp, output_mask));
  if (results.is_done(frame)) return {results.grad_grad_output, results.grad_image, results.grad_matrix};
  const MatrixTable table = matrix_table(arguments, grad_grad_matrix);
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Operands<T> operands{view<T, 4>(image),
                               view<T, 4>(grad_grad_image),
                               view<T, 4>(grad_output),
                               mutable_view_if<T, 4>(results.wants_output, results.grad_grad_output),
                               mutable_view_if<T, 4>(results.wants_image, results.grad_image),
                               mutable_view_if<double, 3>(results.wants_matrix, results.grad_matrix),
                               fill};
    Differentiator<T, Dual<Compute<T>>>(frame, table, operands).run();
  });
  return {results.grad_grad_output, results.grad_image, results.grad_matrix};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::warp_cpu>(library, "warp");
  handgrad::implement<handgrad::warp_backward_cpu>(library, "_warp_backward");
  handgrad::implement<handgrad::warp_double_backward_cpu>(library, "_warp_double_backward");
}
