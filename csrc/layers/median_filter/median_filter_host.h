// What the host entries of all devices share: the checks of a call, and its passes.
#pragma once

#include <array>

#include "abi/layout.h"
#include "abi/output_mask.h"
#include "abi/view.h"
#include "kinds/formula.h"
#include "median_filter_math.h"

namespace handgrad::median_filter {

inline constexpr const char* kOp = "median_filter";
// The most rows and columns of a window, and of an image: kernels count the pixels of a tile in 32 bits.
inline constexpr int64_t kMostTaps = 1023, kMostPixels = int64_t{1} << 30;

// Axis 0 is that of rows, as in kernel_size.
struct Geometry {
  int64_t batch, channels, size[2];
  int32_t radius[2];
  Border border;

  HANDGRAD_MATH int32_t taps() const { return (2 * radius[0] + 1) * (2 * radius[1] + 1); }
};

inline Geometry checked(const Tensor& input, const std::vector<int64_t>& kernel_size, int64_t border) {
  check_floating(kOp, "input", input);
  check_rank(kOp, "input", input, 4, "(batch, channels, height, width)");
  const Sizes sizes = input.sizes();
  HANDGRAD_CHECK(sizes[2] <= kMostPixels && sizes[3] <= kMostPixels, kOp,
                 ": input must have at most 2^30 rows and columns; got ", shape_text(input));
  HANDGRAD_CHECK(border >= 0 && border <= 3, kOp, ": border must be 0 to 3; got ", border);
  HANDGRAD_CHECK(kernel_size.size() == 2, kOp, ": kernel_size must be two numbers; got ", kernel_size.size());
  Geometry geometry{sizes[0], sizes[1], {sizes[2], sizes[3]}, {}, static_cast<Border>(border)};
  for (size_t axis = 0; axis < 2; ++axis) {
    const int64_t taps = kernel_size[axis], reach = taps / 2, size = geometry.size[axis];
    HANDGRAD_CHECK(taps > 0 && taps % 2 == 1 && taps <= kMostTaps, kOp,
                   ": kernel_size must be odd, at least 1 and at most 1023; got ", taps);
    geometry.radius[axis] = static_cast<int32_t>(reach);
    HANDGRAD_CHECK(input.numel() == 0 || fits(geometry.border, reach, size), kOp, ": input must have ",
                   border == kReflect ? "more " : "at least as many ", axis == 0 ? "rows" : "columns",
                   border == kReflect ? " than" : " as", " kernel_size // 2, ", reach, ", for a border that is ",
                   border == kReflect ? "reflect" : "circular", "; got ", sizes[2], " x ", sizes[3], " pixels");
  }
  return geometry;
}

// What a pass makes of the pixels that windows select: their values; of `source`, another image, what it has there; or
// the gradient, which gives each element of `source` to the pixel that its window selects.
enum Pass : int32_t { kValues, kSelected, kGradient };

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has run<C>(geometry, pass, input, source, output).
template <class Device>
Tensor run(const Tensor& input, const Tensor& source, const Geometry& geometry, Pass pass) {
  const Tensor output = empty_in_layout_of(input);
  if (output.numel() == 0) return output;
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    Device::template run<typename decltype(tag)::type>(geometry, pass, input, source, output);
  });
  return output;
}

template <class Device>
Tensor value(const Tensor& input,  // [N, C, H, W]
             const std::vector<int64_t>& kernel_size, int64_t border) {
  return run<Device>(input, input, checked(input, kernel_size, border), kValues);
}

template <class Device>
Tensor backward(const Tensor& grad_output,  // [N, C, H, W]
                const Tensor& input,        // [N, C, H, W]
                const std::vector<int64_t>& kernel_size, int64_t border, const std::vector<bool>& output_mask) {
  const Geometry geometry = checked(input, kernel_size, border);
  check_like(kOp, "grad_output", grad_output, "input", input);
  if (!as_output_mask<1>(kOp, output_mask)[0]) return empty_placeholder(input);
  return run<Device>(input, grad_output, geometry, kGradient);
}

// The gradient is linear in grad_output, and selects by the input alone: the input has no second derivative.
template <class Device>
std::tuple<Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,  // [N, C, H, W]
                                           const Tensor& grad_output,                     // [N, C, H, W]
                                           const Tensor& input,                           // [N, C, H, W]
                                           const std::vector<int64_t>& kernel_size, int64_t border,
                                           const std::vector<bool>& output_mask) {
  const Geometry geometry = checked(input, kernel_size, border);
  check_like(kOp, "grad_output", grad_output, "input", input);
  if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
  const std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  const Tensor grad_input = empty_gradient(wanted[1], input);
  if (wanted[1]) fill_zero(grad_input);
  if (wanted[0] && grad_grad_input) return {run<Device>(input, *grad_grad_input, geometry, kSelected), grad_input};
  const Tensor grad_grad_output = empty_gradient(wanted[0], input);
  if (wanted[0]) fill_zero(grad_grad_output);
  return {grad_grad_output, grad_input};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::median_filter
