// What the host entries of all devices share: the checks of a call, its results, and what a derivative is made of.
#pragma once

#include <array>

#include "abi/images.h"
#include "abi/output_mask.h"
#include "abi/view.h"
#include "adjust_sharpness_math.h"
#include "kinds/formula.h"

namespace handgrad::adjust_sharpness {

inline constexpr const char* kOp = "adjust_sharpness";

struct Geometry {
  int64_t batch, channels, height, width;

  // An image without a pixel that has eight neighbours stays as it is: not even cut to 0 to 1.
  HANDGRAD_MATH bool is_small() const { return height <= 2 || width <= 2; }
  HANDGRAD_MATH bool is_border_row(int64_t y) const { return is_small() || y == 0 || y == height - 1; }
  HANDGRAD_MATH bool is_border(int64_t y, int64_t x) const { return is_border_row(y) || x == 0 || x == width - 1; }
};

// The factor of each image, or of all; and a direction of it.
struct FactorTable {
  View<const double, 1> factor, direction;  // [N]
  double shared = 0;

  HANDGRAD_MATH double rest(int64_t n) const { return 1 - (factor ? *factor.at(n) : shared); }
  HANDGRAD_MATH double along(int64_t n) const { return direction ? *direction.at(n) : 0.0; }
};

inline FactorTable factor_table(const std::optional<Tensor>& factor, double shared_factor,
                                const std::optional<Tensor>& direction = std::nullopt) {
  return {view<double, 1>(factor), view<double, 1>(direction), shared_factor};
}

inline Geometry check_arguments(const Tensor& image,                    // [N, C, H, W]
                                const std::optional<Tensor>& factor) {  // [N]
  check_image(kOp, image);
  const Sizes sizes = image.sizes();
  if (factor) {
    HANDGRAD_CHECK(factor->scalar_type() == ScalarType::Double, kOp, ": factor must be float64; got ",
                   dtype_text(factor->scalar_type()));
    check_device(kOp, "factor", *factor, "image", image);
    check_shape(kOp, "factor", *factor, {sizes[0]}, "(images,)");
  }
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

// What the derivatives share: the image must be one that has any.
inline Geometry check_derivative(const Tensor& image, const std::optional<Tensor>& factor, const Tensor& grad_output) {
  check_floating(kOp, "image", image);
  const Geometry geometry = check_arguments(image, factor);
  check_like(kOp, "grad_output", grad_output, "image", image);
  return geometry;
}

// ---- derivatives ----------------------------------------------------------------------------------------------------

// What a pass over the pixels reads and writes. With d = mean - x, of pixels with eight neighbours, m where the blend
// is inside, g = m grad_output, and D the same of g as d is of x, with zeros for the border and beyond it:
//   grad_grad_output = m (direction + rest d(direction) - along d)
//   grad_image       = g + rest D, or, along a direction of the factor, -along D
//   sums             = those of -g d, or, along a direction of the image, -g d(direction)
struct Derivative {
  const Tensor *image, *grad_output, *direction = nullptr;          // [N, C, H, W]
  const Tensor *grad_grad_output = nullptr, *grad_image = nullptr;  // [N, C, H, W]
  const Tensor* sums = nullptr;                                     // [N], float64
  bool is_second = false;

  bool is_done() const { return !grad_grad_output && !grad_image && !sums; }
};

struct BackwardResults {
  bool wants_image, wants_factor;
  Tensor grad_image;   // [N, C, H, W]
  Tensor grad_factor;  // [N]

  BackwardResults(const Tensor& image, const std::optional<Tensor>& factor, const std::array<bool, 2>& mask)
      : wants_image(mask[0]),
        wants_factor(mask[1] && factor),
        grad_image(empty_gradient(mask[0], image)),
        grad_factor(wants_factor ? empty_contiguous(factor->sizes(), *factor) : placeholder(image, factor)) {
    if (image.numel() > 0) return;
    if (wants_factor) fill_zero(grad_factor);
    wants_image = wants_factor = false;
  }

  static Tensor placeholder(const Tensor& image, const std::optional<Tensor>& factor) {
    return empty_placeholder(factor ? *factor : image);
  }

  Derivative derivative(const Tensor& image, const Tensor& grad_output) const {
    Derivative call{&image, &grad_output};
    if (wants_image) call.grad_image = &grad_image;
    if (wants_factor) call.sums = &grad_factor;
    return call;
  }
};

// Without a direction of the factor the image has no gradient, without one of the image the factor has none.
struct DoubleBackwardResults : BackwardResults {
  bool wants_output;
  Tensor grad_grad_output;  // [N, C, H, W]

  DoubleBackwardResults(const Tensor& image, const std::optional<Tensor>& factor,
                        const std::optional<Tensor>& grad_grad_image, const std::optional<Tensor>& grad_grad_factor,
                        const std::array<bool, 3>& mask)
      : BackwardResults(image, factor, {mask[1], mask[2]}),
        wants_output(mask[0] && image.numel() > 0),
        grad_grad_output(empty_gradient(mask[0], image)) {
    if (grad_grad_image) check_like(kOp, "grad_grad_image", *grad_grad_image, "image", image);
    if (grad_grad_factor) {
      HANDGRAD_CHECK(factor, kOp, ": grad_grad_factor must be None without factor");
      check_like(kOp, "grad_grad_factor", *grad_grad_factor, "factor", *factor);
    }
    const bool has_direction = grad_grad_image || grad_grad_factor;
    if (wants_output && !has_direction) fill_zero(grad_grad_output);
    if (wants_image && !grad_grad_factor) fill_zero(grad_image);
    if (wants_factor && !grad_grad_image) fill_zero(grad_factor);
    wants_output = wants_output && has_direction;
    wants_image = wants_image && grad_grad_factor;
    wants_factor = wants_factor && grad_grad_image;
  }

  Derivative derivative(const Tensor& image, const Tensor& grad_output,
                        const std::optional<Tensor>& grad_grad_image) const {
    Derivative call = BackwardResults::derivative(image, grad_output);
    if (grad_grad_image) call.direction = &*grad_grad_image;
    if (wants_output) call.grad_grad_output = &grad_grad_output;
    call.is_second = true;
    return call;
  }
};

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has levels(geometry, table, image, output), numbers<C>(the same), and gradients<C>(geometry, table, call).
template <class Device>
Tensor value(const Tensor& image,                  // [N, C, H, W]
             const std::optional<Tensor>& factor,  // [N]
             double shared_factor) {
  const Geometry geometry = check_arguments(image, factor);
  const FactorTable table = factor_table(factor, shared_factor);
  const Tensor output = empty_in_layout_of(image);
  if (output.numel() == 0) return output;
  if (image.scalar_type() == ScalarType::Byte) {
    Device::levels(geometry, table, image, output);
    return output;
  }
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    Device::template numbers<typename decltype(tag)::type>(geometry, table, image, output);
  });
  return output;
}

template <class Device>
void run_derivative(const Geometry& geometry, const FactorTable& table, const Derivative& call) {
  if (call.is_done()) return;
  dispatch_compute(kOp, call.image->scalar_type(),
                   [&](auto tag) { Device::template gradients<typename decltype(tag)::type>(geometry, table, call); });
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,            // [N, C, H, W]
                                    const Tensor& image,                  // [N, C, H, W]
                                    const std::optional<Tensor>& factor,  // [N]
                                    double shared_factor, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_derivative(image, factor, grad_output);
  const BackwardResults results(image, factor, as_output_mask<2>(kOp, output_mask));
  run_derivative<Device>(geometry, factor_table(factor, shared_factor), results.derivative(image, grad_output));
  return {results.grad_image, results.grad_factor};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_image,   // [N, C, H, W]
                                                   const std::optional<Tensor>& grad_grad_factor,  // [N]
                                                   const Tensor& grad_output,                      // [N, C, H, W]
                                                   const Tensor& image,                            // [N, C, H, W]
                                                   const std::optional<Tensor>& factor,            // [N]
                                                   double shared_factor, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_derivative(image, factor, grad_output);
  const DoubleBackwardResults results(image, factor, grad_grad_image, grad_grad_factor,
                                      as_output_mask<3>(kOp, output_mask));
  run_derivative<Device>(geometry, factor_table(factor, shared_factor, grad_grad_factor),
                         results.derivative(image, grad_output, grad_grad_image));
  return {results.grad_grad_output, results.grad_image, results.grad_factor};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::adjust_sharpness
