// What the host entries of all devices share: the checks of a call, its results, and its passes. The op is two filters,
// one along rows and one along columns; its derivatives are sums of such pairs of filters, which a pass lists.
//
// In order of appearance: Geometry and checks; Pass, and the passes of all derivatives; results.
#pragma once

#include <array>

#include "abi/images.h"
#include "abi/output_mask.h"
#include "abi/view.h"
#include "gaussian_blur_math.h"
#include "kinds/formula.h"

namespace handgrad::gaussian_blur {

inline constexpr const char* kOp = "gaussian_blur";
// The most taps of an axis, and pixels: kernels count them in 32 bits.
inline constexpr int64_t kMostTaps = (int64_t{1} << 20) - 1, kMostPixels = int64_t{1} << 30;

// Axis 0 is that of a row, as in kernel_size and sigma.
struct Geometry {
  int64_t batch, channels, height, width;
  int32_t radius[2];

  HANDGRAD_MATH int64_t size(int axis) const { return axis == 0 ? width : height; }
  // In the table of an image's filters: kFilters of each axis, radius + 1 numbers of each.
  HANDGRAD_MATH int64_t filter_at(int axis, int32_t filter) const {
    const int64_t first = radius[0] + 1, second = radius[1] + 1;
    return axis == 0 ? filter * first : kFilters * first + filter * second;
  }
  HANDGRAD_MATH int64_t filters() const { return filter_at(1, kFilters); }
};

// The sigma of each image, or of all; and directions of it.
struct SigmaTable {
  View<const double, 2> sigma, direction;  // [N, 2]
  double shared[2];

  HANDGRAD_MATH double of(int64_t n, int axis) const { return sigma ? *sigma.at(n, axis) : shared[axis]; }
  HANDGRAD_MATH double along(int64_t n, int axis) const { return direction ? *direction.at(n, axis) : 0.0; }
};

inline Geometry check_arguments(const Tensor& image,                 // [N, C, H, W]
                                const std::optional<Tensor>& sigma,  // [N, 2]
                                const std::vector<int64_t>& kernel_size, const std::vector<double>& shared_sigma) {
  check_image(kOp, image);
  const Sizes sizes = image.sizes();
  HANDGRAD_CHECK(sizes[2] <= kMostPixels && sizes[3] <= kMostPixels, kOp,
                 ": image must have at most 2^30 rows and columns; got ", shape_text(image));
  HANDGRAD_CHECK(kernel_size.size() == 2, kOp, ": kernel_size must be two numbers; got ", kernel_size.size());
  Geometry geometry{sizes[0], sizes[1], sizes[2], sizes[3], {}};
  for (size_t axis = 0; axis < 2; ++axis) {
    const int64_t taps = kernel_size[axis];
    HANDGRAD_CHECK(taps > 0 && taps % 2 == 1 && taps <= kMostTaps, kOp,
                   ": kernel_size must be odd, at least 1 and less than 2^20; got ", taps);
    geometry.radius[axis] = static_cast<int32_t>(taps / 2);
    const int64_t size = geometry.size(static_cast<int>(axis));
    HANDGRAD_CHECK(image.numel() == 0 || taps / 2 < size, kOp, ": image must have more ",
                   axis == 0 ? "columns" : "rows", " than kernel_size // 2, ", taps / 2,
                   ", since its border is a mirror; got ", sizes[2], " x ", sizes[3], " pixels");
  }
  if (sigma) {
    HANDGRAD_CHECK(sigma->scalar_type() == ScalarType::Double, kOp, ": sigma must be float64; got ",
                   dtype_text(sigma->scalar_type()));
    check_device(kOp, "sigma", *sigma, "image", image);
    check_shape(kOp, "sigma", *sigma, {geometry.batch, 2}, "(images, 2)");
  } else {
    HANDGRAD_CHECK(shared_sigma.size() == 2, kOp, ": sigma must be two numbers; got ", shared_sigma.size());
  }
  return geometry;
}

inline SigmaTable sigma_table(const std::optional<Tensor>& sigma, const std::vector<double>& shared_sigma,
                              const std::optional<Tensor>& direction = std::nullopt) {
  SigmaTable table{view<double, 2>(sigma), view<double, 2>(direction), {}};
  if (!sigma) std::copy(shared_sigma.begin(), shared_sigma.end(), table.shared);
  return table;
}

// What the derivatives share: the image must be one that has any.
inline Geometry check_derivative(const Tensor& image, const std::optional<Tensor>& sigma,
                                 const std::vector<int64_t>& kernel_size, const std::vector<double>& shared_sigma,
                                 const Tensor& grad_output) {
  check_floating(kOp, "image", image);
  const Geometry geometry = check_arguments(image, sigma, kernel_size, shared_sigma);
  check_like(kOp, "grad_output", grad_output, "image", image);
  return geometry;
}

// ---- passes ---------------------------------------------------------------------------------------------------------

// A filter of one thing that there is, added to what a sum is made of.
struct Term {
  int32_t from;
  Filter filter;
};

template <int Most>
struct Sum {
  int32_t count = 0;
  Term terms[Most] = {};

  void add(int32_t from, Filter filter) { terms[count++] = {from, filter}; }
};

// Sources are filtered along rows to planes, and these along columns to outputs.
struct Pass {
  static constexpr int kMostPlanes = 4, kMostOutputs = 2;

  // With the transposed matrices of both axes: what lies behind a border is given back to what it mirrors.
  bool transposed = false;
  int32_t sources = 1, planes = 0, outputs = 0;
  Sum<2> plane[kMostPlanes], output[kMostOutputs];

  // All filters that come after the weights.
  HANDGRAD_MATH bool is_differentiated() const { return planes > 1; }
  int32_t add_plane() { return planes++; }
  int32_t add_output() { return outputs++; }
};

// V H x
inline Pass value_pass(bool transposed) {
  Pass pass;
  pass.transposed = transposed;
  pass.plane[pass.add_plane()].add(0, kValue);
  pass.output[pass.add_output()].add(0, kValue);
  return pass;
}

// Along a direction of sigma, and of the image if there is one: V (H v + a H' x) + b V' H x
inline Pass tangent_pass(bool transposed, bool has_direction) {
  Pass pass;
  pass.transposed = transposed;
  pass.sources = has_direction ? 2 : 1;
  const int32_t plain = pass.add_plane(), along = pass.add_plane(), output = pass.add_output();
  pass.plane[plain].add(0, kValue);
  pass.plane[along].add(0, kSlopeAlong);
  if (has_direction) pass.plane[along].add(1, kValue);
  pass.output[output].add(along, kValue);
  pass.output[output].add(plain, kSlopeAlong);
  return pass;
}

// By which both numbers of sigma change the output: V H' x and V' H x
inline Pass slope_pass() {
  Pass pass;
  const int32_t plain = pass.add_plane(), slope = pass.add_plane();
  pass.plane[plain].add(0, kValue);
  pass.plane[slope].add(0, kSlope);
  pass.output[pass.add_output()].add(slope, kValue);
  pass.output[pass.add_output()].add(plain, kSlope);
  return pass;
}

// The same along a direction of sigma, and of the image if there is one:
// V (H' v + a H'' x) + b V' H' x and V' (H v + a H' x) + b V'' H x
inline Pass curvature_pass(bool has_direction) {
  Pass pass;
  pass.sources = has_direction ? 2 : 1;
  const int32_t plain = pass.add_plane(), slope = pass.add_plane();
  const int32_t plain_along = pass.add_plane(), slope_along = pass.add_plane();
  pass.plane[plain].add(0, kValue);
  pass.plane[slope].add(0, kSlope);
  pass.plane[plain_along].add(0, kSlopeAlong);
  pass.plane[slope_along].add(0, kCurvatureAlong);
  if (has_direction) {
    pass.plane[plain_along].add(1, kValue);
    pass.plane[slope_along].add(1, kSlope);
  }
  const int32_t columns = pass.add_output(), rows = pass.add_output();
  pass.output[columns].add(slope_along, kValue);
  pass.output[columns].add(slope, kSlopeAlong);
  pass.output[rows].add(plain_along, kSlope);
  pass.output[rows].add(plain, kCurvatureAlong);
  return pass;
}

// ---- results --------------------------------------------------------------------------------------------------------

struct BackwardResults {
  bool wants_image, wants_sigma;
  Tensor grad_image;  // [N, C, H, W]
  Tensor grad_sigma;  // [N, 2]

  BackwardResults(const Tensor& image, const std::optional<Tensor>& sigma, const std::array<bool, 2>& mask)
      : wants_image(mask[0]),
        wants_sigma(mask[1] && sigma),
        grad_image(empty_gradient(mask[0], image)),
        grad_sigma(sigma ? empty_gradient(mask[1], *sigma) : empty_placeholder(image)) {
    if (image.numel() > 0) return;
    if (wants_sigma) fill_zero(grad_sigma);
    wants_image = wants_sigma = false;
  }
};

// Without a direction of sigma the op is linear: then the image has no gradient, and of sigma what is left is the
// slope of the direction of the image.
struct DoubleBackwardResults : BackwardResults {
  bool wants_output;
  Tensor grad_grad_output;  // [N, C, H, W]

  DoubleBackwardResults(const Tensor& image, const std::optional<Tensor>& sigma,
                        const std::optional<Tensor>& grad_grad_image, const std::optional<Tensor>& grad_grad_sigma,
                        const std::array<bool, 3>& mask)
      : BackwardResults(image, sigma, {mask[1], mask[2]}),
        wants_output(mask[0] && image.numel() > 0),
        grad_grad_output(empty_gradient(mask[0], image)) {
    if (grad_grad_image) check_like(kOp, "grad_grad_image", *grad_grad_image, "image", image);
    if (grad_grad_sigma) {
      HANDGRAD_CHECK(sigma, kOp, ": grad_grad_sigma must be None without sigma");
      check_like(kOp, "grad_grad_sigma", *grad_grad_sigma, "sigma", *sigma);
    }
    const bool has_direction = grad_grad_image || grad_grad_sigma;
    if (wants_output && !has_direction) fill_zero(grad_grad_output);
    if (wants_image && !grad_grad_sigma) fill_zero(grad_image);
    if (wants_sigma && !has_direction) fill_zero(grad_sigma);
    wants_output = wants_output && has_direction;
    wants_image = wants_image && grad_grad_sigma;
    wants_sigma = wants_sigma && has_direction;
  }
};

// What a pass reads and writes: outputs, or the sums over each image of their products with `weight`.
struct Operands {
  const Tensor* sources[2] = {};  // [N, C, H, W]
  const Tensor* weight = nullptr;
  const Tensor* output = nullptr;
  const Tensor* sums = nullptr;  // [N, 2]
};

// run(pass, directions, operands) for the passes of both derivatives.
template <class Run>
void run_backward(const BackwardResults& results, const Tensor& image, const Tensor& grad_output, const Run& run) {
  if (results.wants_image) {
    run(value_pass(true), std::nullopt, Operands{{&grad_output, nullptr}, nullptr, &results.grad_image, nullptr});
  }
  if (results.wants_sigma) {
    run(slope_pass(), std::nullopt, Operands{{&image, nullptr}, &grad_output, nullptr, &results.grad_sigma});
  }
}

template <class Run>
void run_double_backward(const DoubleBackwardResults& results, const Tensor& image, const Tensor& grad_output,
                         const std::optional<Tensor>& grad_grad_image, const std::optional<Tensor>& grad_grad_sigma,
                         const Run& run) {
  const Tensor* const direction = grad_grad_image ? &*grad_grad_image : nullptr;
  if (results.wants_output && !grad_grad_sigma) {
    run(value_pass(false), std::nullopt, Operands{{direction, nullptr}, nullptr, &results.grad_grad_output, nullptr});
  } else if (results.wants_output) {
    run(tangent_pass(false, direction), grad_grad_sigma,
        Operands{{&image, direction}, nullptr, &results.grad_grad_output, nullptr});
  }
  if (results.wants_image) {
    run(tangent_pass(true, false), grad_grad_sigma,
        Operands{{&grad_output, nullptr}, nullptr, &results.grad_image, nullptr});
  }
  if (results.wants_sigma && !grad_grad_sigma) {
    run(slope_pass(), std::nullopt, Operands{{direction, nullptr}, &grad_output, nullptr, &results.grad_sigma});
  } else if (results.wants_sigma) {
    run(curvature_pass(direction), grad_grad_sigma,
        Operands{{&image, direction}, &grad_output, nullptr, &results.grad_sigma});
  }
}

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has run(geometry, table, pass, operands).
template <class Device>
Tensor value(const Tensor& image,                 // [N, C, H, W]
             const std::optional<Tensor>& sigma,  // [N, 2]
             const std::vector<int64_t>& kernel_size, const std::vector<double>& shared_sigma) {
  const Geometry geometry = check_arguments(image, sigma, kernel_size, shared_sigma);
  const Tensor output = empty_in_layout_of(image);
  if (output.numel() == 0) return output;
  Device::run(geometry, sigma_table(sigma, shared_sigma), value_pass(false),
              {{&image, nullptr}, nullptr, &output, nullptr});
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,           // [N, C, H, W]
                                    const Tensor& image,                 // [N, C, H, W]
                                    const std::optional<Tensor>& sigma,  // [N, 2]
                                    const std::vector<int64_t>& kernel_size, const std::vector<double>& shared_sigma,
                                    const std::vector<bool>& output_mask) {
  const Geometry geometry = check_derivative(image, sigma, kernel_size, shared_sigma, grad_output);
  const BackwardResults results(image, sigma, as_output_mask<2>(kOp, output_mask));
  run_backward(results, image, grad_output,
               [&](const Pass& pass, const std::optional<Tensor>& direction, const Operands& operands) {
                 Device::run(geometry, sigma_table(sigma, shared_sigma, direction), pass, operands);
               });
  return {results.grad_image, results.grad_sigma};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_image,  // [N, C, H, W]
                                                   const std::optional<Tensor>& grad_grad_sigma,  // [N, 2]
                                                   const Tensor& grad_output,                     // [N, C, H, W]
                                                   const Tensor& image,                           // [N, C, H, W]
                                                   const std::optional<Tensor>& sigma,            // [N, 2]
                                                   const std::vector<int64_t>& kernel_size,
                                                   const std::vector<double>& shared_sigma,
                                                   const std::vector<bool>& output_mask) {
  const Geometry geometry = check_derivative(image, sigma, kernel_size, shared_sigma, grad_output);
  const DoubleBackwardResults results(image, sigma, grad_grad_image, grad_grad_sigma,
                                      as_output_mask<3>(kOp, output_mask));
  run_double_backward(results, image, grad_output, grad_grad_image, grad_grad_sigma,
                      [&](const Pass& pass, const std::optional<Tensor>& direction, const Operands& operands) {
                        Device::run(geometry, sigma_table(sigma, shared_sigma, direction), pass, operands);
                      });
  return {results.grad_grad_output, results.grad_image, results.grad_sigma};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::gaussian_blur
