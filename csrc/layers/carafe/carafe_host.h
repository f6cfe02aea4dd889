// What the host entries of all devices share: the checks of a call, its results, and the entries themselves, of three
// passes that a device brings.
#pragma once

#include <array>
#include <utility>
#include <vector>

#include "abi/layout.h"
#include "abi/output_mask.h"
#include "carafe_math.h"
#include "kinds/formula.h"

namespace handgrad::carafe {

inline constexpr const char* kOp = "carafe";
// So that the number of taps cannot overflow, nor a scale.
inline constexpr int64_t kMostTaps = 1023, kMostScale = INT32_MAX;

// The op's numbers as they come.
struct Numbers {
  int64_t kernel_size, group_size, scale_factor;
};

// `features` times `masks`, one of two such products in a second derivative.
using Pair = std::pair<const Tensor*, const Tensor*>;

inline Geometry check_arguments(const Tensor& features,  // [N, C, H, W]
                                const Tensor& masks,     // [N, group_size * kernel_size^2, H * scale, W * scale]
                                const Numbers& numbers) {
  check_floating(kOp, "features", features);
  check_rank(kOp, "features", features, 4, "(batch, channels, height, width)");
  const int64_t kernel = numbers.kernel_size, groups = numbers.group_size, scale = numbers.scale_factor;
  HANDGRAD_CHECK(kernel >= 1 && kernel <= kMostTaps && kernel % 2 == 1, kOp,
                 ": kernel_size must be odd, at least 1 and at most ", kMostTaps, "; got ", kernel);
  HANDGRAD_CHECK(scale >= 1 && scale <= kMostScale, kOp, ": scale_factor must be at least 1 and at most ", kMostScale,
                 "; got ", scale);
  const Sizes sizes = features.sizes();
  HANDGRAD_CHECK(groups >= 1 && groups <= INT32_MAX && sizes[1] % groups == 0, kOp,
                 ": group_size must be at least 1 and divide the channels of features, ", sizes[1], "; got ", groups);
  check_rank(kOp, "masks", masks, 4,
             "(batch, group_size * kernel_size^2, height * scale_factor, width * scale_factor)");
  const Sizes given = masks.sizes();
  // Divided, where a product might overflow.
  const auto is_scaled = [&](size_t d) { return given[d] % scale == 0 && given[d] / scale == sizes[d]; };
  HANDGRAD_CHECK(given[0] == sizes[0] && given[1] == groups * kernel * kernel && is_scaled(2) && is_scaled(3), kOp,
                 ": masks must have shape (batch, group_size * kernel_size^2, height * scale_factor, width * "
                 "scale_factor), with features ",
                 shape_text(features), ", kernel_size ", kernel, ", group_size ", groups, " and scale_factor ", scale,
                 "; got ", shape_text(masks));
  check_dtype_and_device(kOp, "masks", masks, "features", features);
  return {sizes[0], sizes[1], sizes[2], sizes[3], kernel, groups, scale};
}

// In the layout of the features.
inline Tensor empty_output(const Geometry& geometry, const Tensor& features) {
  const std::array<int64_t, 4> sizes{geometry.batch, geometry.channels, geometry.height * geometry.scale,
                                     geometry.width * geometry.scale};
  return empty_in_layout_of(features, Sizes(sizes.data(), sizes.size()));
}

inline void check_grad_output(const Geometry& geometry, const Tensor& grad_output, const Tensor& features) {
  check_shape(kOp, "grad_output", grad_output,
              {geometry.batch, geometry.channels, geometry.height * geometry.scale, geometry.width * geometry.scale},
              "(batch, channels, height * scale_factor, width * scale_factor)");
  check_dtype_and_device(kOp, "grad_output", grad_output, "features", features);
}

// ---- the entries ----------------------------------------------------------------------------------------------------

// A device has three passes: reassemble(geometry, pairs, output), the sum over one or two pairs;
// differentiate_features(geometry, grad_output, masks, result); differentiate_masks(geometry, grad_output, features,
// result).
template <class Device>
Tensor value(const Tensor& features,  // [N, C, H, W]
             const Tensor& masks,     // [N, group_size * kernel_size^2, H * scale, W * scale]
             int64_t kernel_size, int64_t group_size, int64_t scale_factor) {
  const Geometry geometry = check_arguments(features, masks, {kernel_size, group_size, scale_factor});
  const Tensor output = empty_output(geometry, features);
  Device::reassemble(geometry, {{&features, &masks}}, output);
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // [N, C, H * scale, W * scale]
                                    const Tensor& features,     // [N, C, H, W]
                                    const Tensor& masks,        // [N, group_size * kernel_size^2, H * scale, W * scale]
                                    int64_t kernel_size, int64_t group_size, int64_t scale_factor,
                                    const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(features, masks, {kernel_size, group_size, scale_factor});
  check_grad_output(geometry, grad_output, features);
  const std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  const Tensor grad_features = empty_gradient(wanted[0], features), grad_masks = empty_gradient(wanted[1], masks);
  if (wanted[0]) Device::differentiate_features(geometry, grad_output, masks, grad_features);
  if (wanted[1]) Device::differentiate_masks(geometry, grad_output, features, grad_masks);
  return {grad_features, grad_masks};
}

// The op is linear in either tensor, so that its second derivatives are itself and its first ones, of directions.
template <class Device>
std::tuple<Tensor, Tensor, Tensor> double_backward(
    const std::optional<Tensor>& grad_grad_features,  // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_masks,     // [N, group_size * kernel_size^2, H * scale, W * scale]
    const Tensor& grad_output,                        // [N, C, H * scale, W * scale]
    const Tensor& features,                           // [N, C, H, W]
    const Tensor& masks,                              // [N, group_size * kernel_size^2, H * scale, W * scale]
    int64_t kernel_size, int64_t group_size, int64_t scale_factor, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(features, masks, {kernel_size, group_size, scale_factor});
  check_grad_output(geometry, grad_output, features);
  if (grad_grad_features) check_like(kOp, "grad_grad_features", *grad_grad_features, "features", features);
  if (grad_grad_masks) check_like(kOp, "grad_grad_masks", *grad_grad_masks, "masks", masks);
  const std::array<bool, 3> wanted = as_output_mask<3>(kOp, output_mask);
  const Tensor grad_grad_output = wanted[0] ? empty_output(geometry, features) : empty_placeholder(features);
  const Tensor grad_features = empty_gradient(wanted[1], features), grad_masks = empty_gradient(wanted[2], masks);
  std::vector<Pair> pairs;
  if (grad_grad_features) pairs.push_back({&*grad_grad_features, &masks});
  if (grad_grad_masks) pairs.push_back({&features, &*grad_grad_masks});
  if (wanted[0] && pairs.empty()) fill_zero(grad_grad_output);
  if (wanted[0] && !pairs.empty()) Device::reassemble(geometry, pairs, grad_grad_output);
  if (wanted[1] && !grad_grad_masks) fill_zero(grad_features);
  if (wanted[1] && grad_grad_masks) {
    Device::differentiate_features(geometry, grad_output, *grad_grad_masks, grad_features);
  }
  if (wanted[2] && !grad_grad_features) fill_zero(grad_masks);
  if (wanted[2] && grad_grad_features) {
    Device::differentiate_masks(geometry, grad_output, *grad_grad_features, grad_masks);
  }
  return {grad_grad_output, grad_features, grad_masks};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::carafe
