// What the host entries of all devices share: the sizes of a call, its checks, its results, and the entries themselves,
// of two passes that a device brings.
#pragma once

#include <utility>
#include <vector>

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "correlation_math.h"
#include "kinds/formula.h"

namespace handgrad::correlation {

inline constexpr const char* kOp = "correlation";
// So that the number of displacements, and of elements of an output, cannot overflow.
inline constexpr int64_t kFurthest = 4095;

// The op's lists as they come.
struct Numbers {
  const std::vector<int64_t>&kernel_size, &max_displacement, &stride, &padding, &dilation, &dilation_patch;
  bool normalize;
};

struct Geometry {
  int64_t batch, channels;
  Axis y, x;
  double scale;  // what a sum of products is multiplied by

  int64_t displacements() const { return y.displacements() * x.displacements(); }
};

inline void check_numbers(const char* name, const std::vector<int64_t>& numbers, int64_t smallest, int64_t largest) {
  HANDGRAD_CHECK(numbers.size() == 2, kOp, ": ", name, " must have a number for rows and one for columns; got ",
                 numbers.size());
  for (const int64_t number : numbers) {
    HANDGRAD_CHECK(number >= smallest && number <= largest, kOp, ": ", name, " must be at least ", smallest,
                   " and at most ", largest, "; got ", number);
  }
}

inline Axis axis_of(const Numbers& numbers, size_t k, const Tensor& input1) {
  Axis axis{};
  axis.size = input1.sizes()[2 + k];
  axis.kernel = numbers.kernel_size[k], axis.radius = numbers.max_displacement[k], axis.stride = numbers.stride[k];
  axis.padding = numbers.padding[k], axis.dilation = numbers.dilation[k], axis.step = numbers.dilation_patch[k];
  const int64_t reach = axis.dilation * (axis.kernel - 1) + 1, room = axis.size + 2 * axis.padding - reach;
  HANDGRAD_CHECK(room >= 0, kOp, ": input1 must, with its padding, be as large as the kernel, ", reach,
                 k == 0 ? " rows" : " columns", "; got ", shape_text(input1), " and a padding of ", axis.padding);
  axis.out = room / axis.stride + 1;
  return axis;
}

inline Geometry check_arguments(const Tensor& input1,  // [N, C, H, W]
                                const Tensor& input2,  // [N, C, H, W]
                                const Numbers& numbers) {
  check_floating(kOp, "input1", input1);
  check_rank(kOp, "input1", input1, 4, "(batch, channels, height, width)");
  check_like(kOp, "input2", input2, "input1", input1);
  check_numbers("kernel_size", numbers.kernel_size, 1, INT32_MAX);
  check_numbers("max_displacement", numbers.max_displacement, 0, kFurthest);
  check_numbers("stride", numbers.stride, 1, INT32_MAX);
  check_numbers("padding", numbers.padding, 0, INT32_MAX);
  check_numbers("dilation", numbers.dilation, 1, INT32_MAX);
  check_numbers("dilation_patch", numbers.dilation_patch, 1, INT32_MAX);
  Geometry geometry{};
  geometry.batch = input1.sizes()[0], geometry.channels = input1.sizes()[1];
  geometry.y = axis_of(numbers, 0, input1), geometry.x = axis_of(numbers, 1, input1);
  const int64_t products = geometry.channels * geometry.y.kernel * geometry.x.kernel;
  geometry.scale = numbers.normalize && products > 0 ? 1.0 / static_cast<double>(products) : 1.0;
  return geometry;
}

inline void check_grad_output(const Geometry& geometry, const Tensor& grad_output, const Tensor& input1) {
  check_dtype_and_device(kOp, "grad_output", grad_output, "input1", input1);
  check_shape(kOp, "grad_output", grad_output,
              {geometry.batch, geometry.y.displacements(), geometry.x.displacements(), geometry.y.out, geometry.x.out},
              "(batch, vertical displacements, horizontal displacements, out_h, out_w)");
}

inline Tensor empty_output(const Geometry& geometry, const Tensor& input1) {
  const int64_t sizes[5] = {geometry.batch, geometry.y.displacements(), geometry.x.displacements(), geometry.y.out,
                            geometry.x.out};
  return empty_contiguous(Sizes(sizes, 5), input1);
}

// ---- entries --------------------------------------------------------------------------------------------------------

// Maps whose correlation is an output, or one of two that are added.
using Pair = std::pair<const Tensor*, const Tensor*>;

// A device has correlate(geometry, pairs, output) and differentiate(geometry, mirrored, grad_output, map, result), the
// gradient of the first map, or, mirrored, of the second; `map` is the other one.
template <class Device>
Tensor value(const Tensor& input1,  // [N, C, H, W]
             const Tensor& input2,  // [N, C, H, W]
             const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& max_displacement,
             const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
             const std::vector<int64_t>& dilation, const std::vector<int64_t>& dilation_patch, bool normalize) {
  const Geometry geometry = check_arguments(
      input1, input2, {kernel_size, max_displacement, stride, padding, dilation, dilation_patch, normalize});
  const Tensor output = empty_output(geometry, input1);
  Device::correlate(geometry, {{&input1, &input2}}, output);
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // [N, P, Q, out_h, out_w]
                                    const Tensor& input1,       // [N, C, H, W]
                                    const Tensor& input2,       // [N, C, H, W]
                                    const std::vector<int64_t>& kernel_size,
                                    const std::vector<int64_t>& max_displacement, const std::vector<int64_t>& stride,
                                    const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                                    const std::vector<int64_t>& dilation_patch, bool normalize,
                                    const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(
      input1, input2, {kernel_size, max_displacement, stride, padding, dilation, dilation_patch, normalize});
  check_grad_output(geometry, grad_output, input1);
  const std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  const Tensor grad_input1 = empty_gradient(wanted[0], input1), grad_input2 = empty_gradient(wanted[1], input2);
  if (wanted[0]) Device::differentiate(geometry, false, grad_output, input2, grad_input1);
  if (wanted[1]) Device::differentiate(geometry, true, grad_output, input1, grad_input2);
  return {grad_input1, grad_input2};
}

// The op is linear in each of its maps, so that its second derivatives are itself and its first ones, of directions.
template <class Device>
std::tuple<Tensor, Tensor, Tensor> double_backward(
    const std::optional<Tensor>& grad_grad_input1,  // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_input2,  // [N, C, H, W]
    const Tensor& grad_output,                      // [N, P, Q, out_h, out_w]
    const Tensor& input1,                           // [N, C, H, W]
    const Tensor& input2,                           // [N, C, H, W]
    const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& max_displacement,
    const std::vector<int64_t>& stride, const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
    const std::vector<int64_t>& dilation_patch, bool normalize, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(
      input1, input2, {kernel_size, max_displacement, stride, padding, dilation, dilation_patch, normalize});
  check_grad_output(geometry, grad_output, input1);
  if (grad_grad_input1) check_like(kOp, "grad_grad_input1", *grad_grad_input1, "input1", input1);
  if (grad_grad_input2) check_like(kOp, "grad_grad_input2", *grad_grad_input2, "input2", input2);
  const std::array<bool, 3> wanted = as_output_mask<3>(kOp, output_mask);
  const Tensor grad_grad_output = wanted[0] ? empty_output(geometry, input1) : empty_placeholder(input1);
  const Tensor grad_input1 = empty_gradient(wanted[1], input1), grad_input2 = empty_gradient(wanted[2], input2);
  if (wanted[0]) {
    std::vector<Pair> pairs;
    if (grad_grad_input1) pairs.push_back({&*grad_grad_input1, &input2});
    if (grad_grad_input2) pairs.push_back({&input1, &*grad_grad_input2});
    if (pairs.empty()) {
      fill_zero(grad_grad_output);
    } else {
      Device::correlate(geometry, pairs, grad_grad_output);
    }
  }
  const auto differentiate = [&](bool mirrored, const std::optional<Tensor>& direction, const Tensor& result) {
    if (direction) {
      Device::differentiate(geometry, mirrored, grad_output, *direction, result);
    } else {
      fill_zero(result);
    }
  };
  if (wanted[1]) differentiate(false, grad_grad_input2, grad_input1);
  if (wanted[2]) differentiate(true, grad_grad_input1, grad_input2);
  return {grad_grad_output, grad_input1, grad_input2};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::correlation
