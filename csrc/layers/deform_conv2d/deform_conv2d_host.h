// What the host entries of all devices share: the sizes of a call, its checks, and its results.
#pragma once

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "deform_conv2d_math.h"

namespace handgrad::deform_conv2d {

inline constexpr const char* kOp = "deform_conv2d";

struct Steps {
  int64_t stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
};

// All sizes of one call. Groups are not told but follow from the shapes.
struct Geometry {
  Steps steps;
  int64_t batch, channels, height, width;
  int64_t out_channels, kernel_h, kernel_w, taps;
  int64_t out_h, out_w, positions;
  // Groups of the convolution, with their channels in and out; groups of channels that share their offsets.
  int64_t groups, group_channels, group_out;
  int64_t offset_groups, offset_channels;

  // The sampling point of a tap at output position (row, column), before its offset.
  HANDGRAD_MATH int64_t base_y(int64_t tap, int64_t row) const {
    return row * steps.stride_h - steps.padding_h + tap / kernel_w * steps.dilation_h;
  }
  HANDGRAD_MATH int64_t base_x(int64_t tap, int64_t column) const {
    return column * steps.stride_w - steps.padding_w + tap % kernel_w * steps.dilation_w;
  }
};

inline void check_steps(const Steps& steps) {
  const int64_t numbers[] = {steps.stride_h,   steps.stride_w,  steps.dilation_h,
                             steps.dilation_w, steps.padding_h, steps.padding_w};
  const char* names[] = {"stride", "stride", "dilation", "dilation", "padding", "padding"};
  for (int64_t k = 0; k < 6; ++k) {
    const int64_t smallest = k < 4 ? 1 : 0;
    HANDGRAD_CHECK(numbers[k] >= smallest && numbers[k] <= INT32_MAX, kOp, ": ", names[k], " must be at least ",
                   smallest, " and below 2^31; got ", numbers[k]);
  }
}

// The sizes of input and weight, and the groups of the convolution.
inline void check_convolution(Geometry& geometry, const Tensor& input, const Tensor& weight) {
  const Sizes in = input.sizes(), kernel = weight.sizes();
  geometry.batch = in[0], geometry.channels = in[1], geometry.height = in[2], geometry.width = in[3];
  geometry.out_channels = kernel[0], geometry.group_channels = kernel[1], geometry.kernel_h = kernel[2],
  geometry.kernel_w = kernel[3];
  geometry.taps = geometry.kernel_h * geometry.kernel_w;
  HANDGRAD_CHECK(geometry.channels > 0 && geometry.height > 0 && geometry.width > 0, kOp,
                 ": input must have at least one channel and one pixel; got ", shape_text(input));
  HANDGRAD_CHECK(geometry.out_channels > 0 && geometry.group_channels > 0 && geometry.taps > 0, kOp,
                 ": weight must have no dimension of size 0; got ", shape_text(weight));
  HANDGRAD_CHECK(geometry.channels % geometry.group_channels == 0, kOp, ": weight must have a number of channels, ",
                 geometry.group_channels, ", that divides those of input, ", geometry.channels);
  geometry.groups = geometry.channels / geometry.group_channels;
  HANDGRAD_CHECK(geometry.out_channels % geometry.groups == 0, kOp, ": weight must have a multiple of ",
                 geometry.groups, " output channels, since input's ", geometry.channels, " channels are ",
                 geometry.groups, " groups of weight's ", geometry.group_channels, "; got ", geometry.out_channels);
  geometry.group_out = geometry.out_channels / geometry.groups;
}

// The size of the output.
inline void check_reach(Geometry& geometry) {
  const Steps& steps = geometry.steps;
  const int64_t reach_h = steps.dilation_h * (geometry.kernel_h - 1) + 1,
                reach_w = steps.dilation_w * (geometry.kernel_w - 1) + 1;
  const int64_t room_h = geometry.height + 2 * steps.padding_h - reach_h,
                room_w = geometry.width + 2 * steps.padding_w - reach_w;
  HANDGRAD_CHECK(room_h >= 0 && room_w >= 0, kOp, ": input must, with its padding, be as large as the kernel, ",
                 reach_h, " x ", reach_w, " with its dilation; got ", geometry.height + 2 * steps.padding_h, " x ",
                 geometry.width + 2 * steps.padding_w);
  geometry.out_h = room_h / steps.stride_h + 1;
  geometry.out_w = room_w / steps.stride_w + 1;
  geometry.positions = geometry.out_h * geometry.out_w;
}

inline Geometry check_arguments(const Tensor& input,                // [N, C, H, W]
                                const Tensor& offset,               // [N, 2 * offset_groups * taps, out_h, out_w]
                                const Tensor& weight,               // [out_channels, C / groups, kernel_h, kernel_w]
                                const std::optional<Tensor>& bias,  // [out_channels]
                                const std::optional<Tensor>& mask,  // [N, offset_groups * taps, out_h, out_w]
                                const Steps& steps) {
  check_floating(kOp, "input", input);
  check_rank(kOp, "input", input, 4, "(batch, channels, height, width)");
  check_rank(kOp, "offset", offset, 4, "(batch, 2 * offset_groups * kernel_h * kernel_w, out_h, out_w)");
  check_rank(kOp, "weight", weight, 4, "(out_channels, channels / groups, kernel_h, kernel_w)");
  check_dtype_and_device(kOp, "offset", offset, "input", input);
  check_dtype_and_device(kOp, "weight", weight, "input", input);
  if (bias) check_dtype_and_device(kOp, "bias", *bias, "input", input);
  if (mask) check_dtype_and_device(kOp, "mask", *mask, "input", input);
  check_steps(steps);

  Geometry geometry{};
  geometry.steps = steps;
  check_convolution(geometry, input, weight);
  check_reach(geometry);
  const int64_t offsets = offset.sizes()[1];
  HANDGRAD_CHECK(offsets > 0 && offsets % (2 * geometry.taps) == 0, kOp,
                 ": offset must have 2 * offset_groups * kernel_h * kernel_w channels, a multiple of ",
                 2 * geometry.taps, "; got ", offsets);
  geometry.offset_groups = offsets / (2 * geometry.taps);
  HANDGRAD_CHECK(geometry.channels % geometry.offset_groups == 0, kOp, ": offset must have a number of offset groups, ",
                 geometry.offset_groups, ", that divides the channels of input, ", geometry.channels);
  geometry.offset_channels = geometry.channels / geometry.offset_groups;
  check_shape(kOp, "offset", offset, {geometry.batch, offsets, geometry.out_h, geometry.out_w},
              "(batch, 2 * offset_groups * kernel_h * kernel_w, out_h, out_w)");
  if (mask) {
    check_shape(kOp, "mask", *mask, {geometry.batch, offsets / 2, geometry.out_h, geometry.out_w},
                "(batch, offset_groups * kernel_h * kernel_w, out_h, out_w)");
  }
  if (bias) check_shape(kOp, "bias", *bias, {geometry.out_channels}, "(out_channels,)");
  return geometry;
}

inline void check_grad_output(const Geometry& geometry, const Tensor& grad_output, const Tensor& input) {
  check_dtype_and_device(kOp, "grad_output", grad_output, "input", input);
  check_shape(kOp, "grad_output", grad_output, {geometry.batch, geometry.out_channels, geometry.out_h, geometry.out_w},
              "(batch, out_channels, out_h, out_w)");
}

// What the double backward differentiates along, grad_grad_input and so on; each may be None: zero.
struct Directions {
  const std::optional<Tensor>&input, &offset, &weight, &bias, &mask;

  // Of the samples.
  bool moves() const { return input || offset || mask; }
  bool any() const { return moves() || weight || bias; }
};

inline void check_directions(const Geometry& geometry, const Directions& along, const Tensor& input,
                             const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& mask) {
  if (along.input) check_like(kOp, "grad_grad_input", *along.input, "input", input);
  if (along.offset) check_like(kOp, "grad_grad_offset", *along.offset, "offset", offset);
  if (along.weight) check_like(kOp, "grad_grad_weight", *along.weight, "weight", weight);
  if (along.bias) {
    check_dtype_and_device(kOp, "grad_grad_bias", *along.bias, "input", input);
    check_shape(kOp, "grad_grad_bias", *along.bias, {geometry.out_channels}, "(out_channels,)");
  }
  HANDGRAD_CHECK(mask || !along.mask, kOp, ": grad_grad_mask must be None where mask is; got a tensor of shape ",
                 along.mask ? shape_text(*along.mask) : "");
  if (along.mask) check_like(kOp, "grad_grad_mask", *along.mask, "mask", *mask);
}

inline Tensor empty_output(const Geometry& geometry, const Tensor& input) {
  const int64_t sizes[4] = {geometry.batch, geometry.out_channels, geometry.out_h, geometry.out_w};
  return empty_in_layout_of(input, Sizes(sizes, 4));
}

// The results of a backward or double backward; of the two that only one of them has, the other's is a placeholder.
struct Gradients {
  Tensor grad_output, input, offset, weight, bias, mask;
  bool wants_grad_output = false, wants_input, wants_offset, wants_weight, wants_bias = false, wants_mask;

  static Gradients backward(const Geometry& geometry, const Tensor& input, const Tensor& offset, const Tensor& weight,
                            const std::optional<Tensor>& mask, const std::vector<bool>& output_mask) {
    const auto wanted = as_output_mask<5>(kOp, output_mask);
    Gradients results(input, offset, weight, mask, wanted[0], wanted[1], wanted[2], wanted[4]);
    results.wants_bias = wanted[3];
    if (results.wants_bias) results.bias = empty_contiguous(Sizes(&geometry.out_channels, 1), input);
    return results;
  }

  static Gradients double_backward(const Geometry& geometry, const Tensor& input, const Tensor& offset,
                                   const Tensor& weight, const std::optional<Tensor>& mask,
                                   const std::vector<bool>& output_mask) {
    const auto wanted = as_output_mask<5>(kOp, output_mask);
    Gradients results(input, offset, weight, mask, wanted[1], wanted[2], wanted[3], wanted[4]);
    results.wants_grad_output = wanted[0];
    if (results.wants_grad_output) results.grad_output = empty_output(geometry, input);
    return results;
  }

  // Zeros for what is zero whatever the numbers are; it is then wanted no more.
  void clear_what_stands_still(const Directions& along) {
    if (!along.any()) clear(wants_grad_output, grad_output);
    // grad_input is linear in grad_output and does not depend on input; the same with grad_weight and weight.
    if (!along.offset && !along.mask && !along.weight) clear(wants_input, input);
    if (!along.moves()) clear(wants_weight, weight);
    if (!along.moves() && !along.weight) {
      clear(wants_offset, offset);
      clear(wants_mask, mask);
    }
  }

  bool any() const {
    return wants_grad_output || wants_input || wants_offset || wants_weight || wants_bias || wants_mask;
  }

 private:
  Gradients(const Tensor& like_input, const Tensor& like_offset, const Tensor& like_weight,
            const std::optional<Tensor>& like_mask, bool input_wanted, bool offset_wanted, bool weight_wanted,
            bool mask_wanted)
      : grad_output(empty_placeholder(like_input)),
        input(empty_gradient(input_wanted, like_input)),
        offset(empty_gradient(offset_wanted, like_offset)),
        weight(empty_gradient(weight_wanted, like_weight)),
        bias(empty_placeholder(like_input)),
        mask(empty_gradient(mask_wanted && like_mask, like_mask ? *like_mask : like_input)),
        wants_input(input_wanted),
        wants_offset(offset_wanted),
        wants_weight(weight_wanted),
        wants_mask(mask_wanted && like_mask) {}

  static void clear(bool& wanted, const Tensor& result) {
    if (wanted) fill_zero(result);
    wanted = false;
  }
};

}  // namespace handgrad::deform_conv2d
