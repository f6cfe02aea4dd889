// What the host entries of all devices share: the checks of a call, its results, and its passes.
//
// In order of appearance: Geometry, SigmaTable and checks; results; operands; entries.
#pragma once

#include <array>

#include "abi/layout.h"
#include "abi/output_mask.h"
#include "abi/view.h"
#include "joint_bilateral_filter_math.h"
#include "kinds/formula.h"

namespace handgrad::joint_bilateral_filter {

inline constexpr const char* kOp = "joint_bilateral_filter";
// The most rows and columns of a window, and of an image: kernels count the pixels of a tile in 32 bits.
inline constexpr int64_t kMostTaps = 1023, kMostPixels = int64_t{1} << 30;

// Axis 0 is that of rows, as in kernel_size.
struct Geometry {
  int64_t batch, channels, guides, size[2];
  int32_t radius[2];
  Border border;
  bool own_guide, l1;
};

// The sigmas of each image, or of all; and directions of them. 0 is of colours, 1 of rows, 2 of columns.
struct SigmaTable {
  View<const double, 2> sigma, direction;  // [N, 3]
  double shared[3];

  HANDGRAD_MATH double of(int64_t n, int k) const { return sigma ? *sigma.at(n, k) : shared[k]; }
  HANDGRAD_MATH double along(int64_t n, int k) const { return direction ? *direction.at(n, k) : 0.0; }
  template <class N>
  HANDGRAD_MATH Scales<N> scales(int64_t n) const {
    return {scale_of<N>(of(n, 0), along(n, 0)), scale_of<N>(of(n, 1), along(n, 1)), scale_of<N>(of(n, 2), along(n, 2))};
  }
};

// The call as every entry takes it.
struct Arguments {
  const Tensor& input;                    // [N, C, H, W]
  const std::optional<Tensor>& guidance;  // [N, K, H, W]
  const std::optional<Tensor>& sigma;     // [N, 3]
  const std::vector<int64_t>& kernel_size;
  const std::vector<double>& shared_sigma;
  int64_t border, distance;
};

inline Geometry checked(const Arguments& call) {
  const Tensor& input = call.input;
  check_floating(kOp, "input", input);
  check_rank(kOp, "input", input, 4, "(batch, channels, height, width)");
  const Sizes sizes = input.sizes();
  HANDGRAD_CHECK(sizes[2] <= kMostPixels && sizes[3] <= kMostPixels, kOp,
                 ": input must have at most 2^30 rows and columns; got ", shape_text(input));
  Geometry geometry{
      sizes[0],       sizes[1],          sizes[1], {sizes[2], sizes[3]}, {}, static_cast<Border>(call.border),
      !call.guidance, call.distance == 0};
  HANDGRAD_CHECK(call.border >= 0 && call.border <= 3, kOp, ": border must be 0 to 3; got ", call.border);
  HANDGRAD_CHECK(call.distance == 0 || call.distance == 1, kOp, ": distance must be 0 or 1; got ", call.distance);
  if (call.guidance) {
    const Tensor& guidance = *call.guidance;
    check_rank(kOp, "guidance", guidance, 4, "(batch, channels, height, width)");
    geometry.guides = guidance.sizes()[1];
    check_shape(kOp, "guidance", guidance, {sizes[0], geometry.guides, sizes[2], sizes[3]},
                "(batch, any, height, width) of input");
    check_dtype_and_device(kOp, "guidance", guidance, "input", input);
  }
  HANDGRAD_CHECK(call.kernel_size.size() == 2, kOp, ": kernel_size must be two numbers; got ", call.kernel_size.size());
  for (size_t axis = 0; axis < 2; ++axis) {
    const int64_t taps = call.kernel_size[axis], reach = taps / 2, size = geometry.size[axis];
    HANDGRAD_CHECK(taps > 0 && taps % 2 == 1 && taps <= kMostTaps, kOp,
                   ": kernel_size must be odd, at least 1 and at most 1023; got ", taps);
    geometry.radius[axis] = static_cast<int32_t>(reach);
    HANDGRAD_CHECK(input.numel() == 0 || fits(geometry.border, reach, size), kOp, ": input must have ",
                   geometry.border == kReflect ? "more " : "at least as many ", axis == 0 ? "rows" : "columns",
                   geometry.border == kReflect ? " than" : " as", " kernel_size // 2, ", reach,
                   ", for a border that is ", geometry.border == kReflect ? "reflect" : "circular", "; got ", sizes[2],
                   " x ", sizes[3], " pixels");
  }
  if (call.sigma) {
    HANDGRAD_CHECK(call.sigma->scalar_type() == ScalarType::Double, kOp, ": sigma must be float64; got ",
                   dtype_text(call.sigma->scalar_type()));
    check_device(kOp, "sigma", *call.sigma, "input", input);
    check_shape(kOp, "sigma", *call.sigma, {geometry.batch, 3}, "(images, 3)");
  } else {
    HANDGRAD_CHECK(call.shared_sigma.size() == 3, kOp, ": sigma must be three numbers; got ", call.shared_sigma.size());
  }
  return geometry;
}

inline SigmaTable sigma_table(const Arguments& call, const std::optional<Tensor>& direction = std::nullopt) {
  SigmaTable table{view<double, 2>(call.sigma), view<double, 2>(direction), {}};
  if (!call.sigma) std::copy(call.shared_sigma.begin(), call.shared_sigma.end(), table.shared);
  return table;
}

// ---- results --------------------------------------------------------------------------------------------------------

// With N a Dual, `output` and the gradients get the tangents, along the directions.
struct Operands {
  const Tensor *input = nullptr, *guidance = nullptr;      // [N, C, H, W], [N, K, H, W]
  const Tensor *v_input = nullptr, *v_guidance = nullptr;  // directions
  const Tensor *grad_output = nullptr, *output = nullptr;  // [N, C, H, W]
  const Tensor *grad_input = nullptr, *grad_guidance = nullptr;
  const Tensor* grad_sigma = nullptr;  // [N, 3]
};

struct Results {
  Tensor grad_input, grad_guidance, grad_sigma;
  bool wants_input, wants_guidance, wants_sigma;

  Results(const Arguments& call, bool input, bool guidance, bool sigma)
      : grad_input(empty_gradient(input, call.input)),
        grad_guidance(call.guidance ? empty_gradient(guidance, *call.guidance) : empty_placeholder(call.input)),
        grad_sigma(call.sigma ? empty_gradient(sigma, *call.sigma) : empty_placeholder(call.input)),
        wants_input(input),
        wants_guidance(guidance && call.guidance),
        wants_sigma(sigma && call.sigma) {}

  // Of an image without elements, or of a direction that is nowhere.
  void fill() {
    if (wants_input) fill_zero(grad_input);
    if (wants_guidance) fill_zero(grad_guidance);
    if (wants_sigma) fill_zero(grad_sigma);
    wants_input = wants_guidance = wants_sigma = false;
  }
  bool wants_any() const { return wants_input || wants_guidance || wants_sigma; }
  void give(Operands& operands) const {
    if (wants_input) operands.grad_input = &grad_input;
    if (wants_guidance) operands.grad_guidance = &grad_guidance;
    if (wants_sigma) operands.grad_sigma = &grad_sigma;
  }
};

inline Operands operands_of(const Arguments& call) {
  Operands operands;
  operands.input = &call.input;
  operands.guidance = call.guidance ? &*call.guidance : nullptr;
  return operands;
}

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has forward<N>(geometry, table, operands) and backward<N>(…).
template <class Device>
Tensor value(const Tensor& input, const std::optional<Tensor>& guidance, const std::optional<Tensor>& sigma,
             const std::vector<int64_t>& kernel_size, const std::vector<double>& shared_sigma, int64_t border,
             int64_t distance) {
  const Arguments call{input, guidance, sigma, kernel_size, shared_sigma, border, distance};
  const Geometry geometry = checked(call);
  const Tensor output = empty_in_layout_of(input);
  if (output.numel() == 0) return output;
  Operands operands = operands_of(call);
  operands.output = &output;
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    Device::template forward<typename decltype(tag)::type>(geometry, sigma_table(call), operands);
  });
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& input,
                                            const std::optional<Tensor>& guidance, const std::optional<Tensor>& sigma,
                                            const std::vector<int64_t>& kernel_size,
                                            const std::vector<double>& shared_sigma, int64_t border, int64_t distance,
                                            const std::vector<bool>& output_mask) {
  const Arguments call{input, guidance, sigma, kernel_size, shared_sigma, border, distance};
  const Geometry geometry = checked(call);
  check_like(kOp, "grad_output", grad_output, "input", input);
  const std::array<bool, 3> mask = as_output_mask<3>(kOp, output_mask);
  Results results(call, mask[0], mask[1], mask[2]);
  if (input.numel() == 0) results.fill();
  if (results.wants_any()) {
    Operands operands = operands_of(call);
    operands.grad_output = &grad_output;
    results.give(operands);
    dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
      Device::template backward<typename decltype(tag)::type>(geometry, sigma_table(call), operands);
    });
  }
  return {results.grad_input, results.grad_guidance, results.grad_sigma};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
    const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_guidance,
    const std::optional<Tensor>& grad_grad_sigma, const Tensor& grad_output, const Tensor& input,
    const std::optional<Tensor>& guidance, const std::optional<Tensor>& sigma, const std::vector<int64_t>& kernel_size,
    const std::vector<double>& shared_sigma, int64_t border, int64_t distance, const std::vector<bool>& output_mask) {
  const Arguments call{input, guidance, sigma, kernel_size, shared_sigma, border, distance};
  const Geometry geometry = checked(call);
  check_like(kOp, "grad_output", grad_output, "input", input);
  if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
  HANDGRAD_CHECK(guidance || !grad_grad_guidance, kOp, ": grad_grad_guidance must be None without guidance");
  HANDGRAD_CHECK(sigma || !grad_grad_sigma, kOp, ": grad_grad_sigma must be None without sigma");
  if (grad_grad_guidance) check_like(kOp, "grad_grad_guidance", *grad_grad_guidance, "guidance", *guidance);
  if (grad_grad_sigma) check_like(kOp, "grad_grad_sigma", *grad_grad_sigma, "sigma", *sigma);
  const std::array<bool, 4> mask = as_output_mask<4>(kOp, output_mask);
  const Tensor grad_grad_output = empty_gradient(mask[0], input);
  Results results(call, mask[1], mask[2], mask[3]);
  const bool nowhere = input.numel() == 0 || (!grad_grad_input && !grad_grad_guidance && !grad_grad_sigma);
  if (nowhere) results.fill();
  if (nowhere && mask[0]) fill_zero(grad_grad_output);
  Operands operands = operands_of(call);
  operands.v_input = grad_grad_input ? &*grad_grad_input : nullptr;
  operands.v_guidance = grad_grad_guidance ? &*grad_grad_guidance : nullptr;
  operands.grad_output = &grad_output;
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using N = Dual<typename decltype(tag)::type>;
    const SigmaTable table = sigma_table(call, grad_grad_sigma);
    if (mask[0] && !nowhere) {
      operands.output = &grad_grad_output;
      Device::template forward<N>(geometry, table, operands);
    }
    results.give(operands);
    if (results.wants_any()) Device::template backward<N>(geometry, table, operands);
  });
  return {grad_grad_output, results.grad_input, results.grad_guidance, results.grad_sigma};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::joint_bilateral_filter
