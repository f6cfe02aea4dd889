// What the host entries of all devices share: the sizes of a call, its checks, and how tensors lie in memory.
#pragma once

#include <optional>

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/image.h"
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

  // Where tap t of output position (row, column) looks before the offset.
  HANDGRAD_MATH int64_t base_y(int64_t tap, int64_t row) const {
    return row * steps.stride_h - steps.padding_h + tap / kernel_w * steps.dilation_h;
  }
  HANDGRAD_MATH int64_t base_x(int64_t tap, int64_t column) const {
    return column * steps.stride_w - steps.padding_w + tap % kernel_w * steps.dilation_w;
  }
};

inline void check_mate(const char* argument, const Tensor& tensor, const Tensor& input) {
  HANDGRAD_CHECK(tensor.scalar_type() == input.scalar_type(), kOp, ": ", argument, " must have the dtype of input, ",
                 dtype_text(input.scalar_type()), "; got ", dtype_text(tensor.scalar_type()));
  HANDGRAD_CHECK(tensor.is_cpu() == input.is_cpu() && tensor.get_device_index() == input.get_device_index(), kOp, ": ",
                 argument, " must be on the device of input");
}

// `argument` must have this very shape, which the sentence explains with `why`.
inline void check_sizes(const char* argument, const Tensor& tensor, std::initializer_list<int64_t> wanted,
                        const char* why) {
  const Sizes sizes = tensor.sizes();
  bool same = sizes.size() == wanted.size();
  std::ostringstream text;
  size_t d = 0;
  for (const int64_t size : wanted) {
    same = same && sizes[d] == size;
    text << (d++ ? ", " : "") << size;
  }
  HANDGRAD_CHECK(same, kOp, ": ", argument, " must have shape ", why, ", here (", text.str(),
                 wanted.size() == 1 ? ",)" : ")", "; got ", shape_text(tensor));
}

inline Geometry check_arguments(const Tensor& input, const Tensor& offset, const Tensor& weight,
                                const std::optional<Tensor>& bias, const std::optional<Tensor>& mask,
                                const Steps& steps) {
  check_floating(kOp, "input", input);
  HANDGRAD_CHECK(input.dim() == 4, kOp, ": input must have 4 dimensions (batch, channels, height, width); got ",
                 shape_text(input));
  HANDGRAD_CHECK(offset.dim() == 4, kOp,
                 ": offset must have 4 dimensions (batch, 2 * offset_groups * kernel_h * kernel_w, out_h, out_w); got ",
                 shape_text(offset));
  HANDGRAD_CHECK(weight.dim() == 4, kOp,
                 ": weight must have 4 dimensions (out_channels, channels / groups, kernel_h, kernel_w); got ",
                 shape_text(weight));
  check_mate("offset", offset, input);
  check_mate("weight", weight, input);
  if (bias) check_mate("bias", *bias, input);
  if (mask) check_mate("mask", *mask, input);
  const int64_t numbers[] = {steps.stride_h,   steps.stride_w,  steps.dilation_h,
                             steps.dilation_w, steps.padding_h, steps.padding_w};
  const char* names[] = {"stride", "stride", "dilation", "dilation", "padding", "padding"};
  for (int64_t k = 0; k < 6; ++k) {
    const int64_t smallest = k < 4 ? 1 : 0;
    HANDGRAD_CHECK(numbers[k] >= smallest && numbers[k] <= INT32_MAX, kOp, ": ", names[k], " must be at least ",
                   smallest, " and below 2^31; got ", numbers[k]);
  }

  Geometry at{};
  at.steps = steps;
  const Sizes in = input.sizes(), kernel = weight.sizes();
  at.batch = in[0], at.channels = in[1], at.height = in[2], at.width = in[3];
  at.out_channels = kernel[0], at.group_channels = kernel[1], at.kernel_h = kernel[2], at.kernel_w = kernel[3];
  at.taps = at.kernel_h * at.kernel_w;
  HANDGRAD_CHECK(at.channels > 0 && at.height > 0 && at.width > 0, kOp,
                 ": input must have at least one channel and one pixel; got ", shape_text(input));
  HANDGRAD_CHECK(at.out_channels > 0 && at.group_channels > 0 && at.taps > 0, kOp,
                 ": weight must have no dimension of size 0; got ", shape_text(weight));
  HANDGRAD_CHECK(at.channels % at.group_channels == 0, kOp, ": weight must have a number of channels, ",
                 at.group_channels, ", that divides those of input, ", at.channels);
  at.groups = at.channels / at.group_channels;
  HANDGRAD_CHECK(at.out_channels % at.groups == 0, kOp, ": weight must have a multiple of ", at.groups,
                 " output channels, since input's ", at.channels, " channels are ", at.groups, " groups of weight's ",
                 at.group_channels, "; got ", at.out_channels);
  at.group_out = at.out_channels / at.groups;
  const int64_t reach_h = steps.dilation_h * (at.kernel_h - 1) + 1, reach_w = steps.dilation_w * (at.kernel_w - 1) + 1;
  const int64_t room_h = at.height + 2 * steps.padding_h - reach_h, room_w = at.width + 2 * steps.padding_w - reach_w;
  HANDGRAD_CHECK(room_h >= 0 && room_w >= 0, kOp, ": input must, with its padding, be as large as the kernel, ",
                 reach_h, " x ", reach_w, " with its dilation; got ", at.height + 2 * steps.padding_h, " x ",
                 at.width + 2 * steps.padding_w);
  at.out_h = room_h / steps.stride_h + 1;
  at.out_w = room_w / steps.stride_w + 1;
  at.positions = at.out_h * at.out_w;
  const int64_t offsets = offset.sizes()[1];
  HANDGRAD_CHECK(offsets > 0 && offsets % (2 * at.taps) == 0, kOp,
                 ": offset must have 2 * offset_groups * kernel_h * kernel_w channels, a multiple of ", 2 * at.taps,
                 "; got ", offsets);
  at.offset_groups = offsets / (2 * at.taps);
  HANDGRAD_CHECK(at.channels % at.offset_groups == 0, kOp, ": offset must have a number of offset groups, ",
                 at.offset_groups, ", that divides the channels of input, ", at.channels);
  at.offset_channels = at.channels / at.offset_groups;
  check_sizes("offset", offset, {at.batch, offsets, at.out_h, at.out_w},
              "(batch, 2 * offset_groups * kernel_h * kernel_w, out_h, out_w)");
  if (mask) {
    check_sizes("mask", *mask, {at.batch, offsets / 2, at.out_h, at.out_w},
                "(batch, offset_groups * kernel_h * kernel_w, out_h, out_w)");
  }
  if (bias) check_sizes("bias", *bias, {at.out_channels}, "(out_channels,)");
  return at;
}

inline void check_grad_output(const Geometry& at, const Tensor& grad_output, const Tensor& input) {
  check_mate("grad_output", grad_output, input);
  check_sizes("grad_output", grad_output, {at.batch, at.out_channels, at.out_h, at.out_w},
              "(batch, out_channels, out_h, out_w)");
}

// What the double backward differentiates along; each may be None: zero.
struct Directions {
  const std::optional<Tensor>&input, &offset, &weight, &bias, &mask;

  // Of the samples.
  bool moves() const { return input || offset || mask; }
  bool any() const { return moves() || weight || bias; }
};

inline void check_directions(const Geometry& at, const Directions& along, const Tensor& input, const Tensor& offset,
                             const Tensor& weight, const std::optional<Tensor>& mask) {
  if (along.input) check_like(kOp, "grad_grad_input", *along.input, "input", input);
  if (along.offset) check_like(kOp, "grad_grad_offset", *along.offset, "offset", offset);
  if (along.weight) check_like(kOp, "grad_grad_weight", *along.weight, "weight", weight);
  if (along.bias) {
    check_mate("grad_grad_bias", *along.bias, input);
    check_sizes("grad_grad_bias", *along.bias, {at.out_channels}, "(out_channels,)");
  }
  HANDGRAD_CHECK(mask || !along.mask, kOp, ": grad_grad_mask must be None where mask is; got a tensor of shape ",
                 along.mask ? shape_text(*along.mask) : "");
  if (along.mask) check_like(kOp, "grad_grad_mask", *along.mask, "mask", *mask);
}

inline Tensor empty_output(const Geometry& at, const Tensor& input) {
  const int64_t sizes[4] = {at.batch, at.out_channels, at.out_h, at.out_w};
  return empty_image(Sizes(sizes, 4), !input.is_contiguous() && is_channels_last(input), input);
}

inline Tensor empty_bias(const Geometry& at, const Tensor& input) {
  const int64_t one = 1;
  return empty_strided(Sizes(&at.out_channels, 1), Sizes(&one, 1), input);
}

// The results of a backward or double backward; of the two that only one of them has, the other's is a placeholder.
struct Gradients {
  Tensor grad_output, input, offset, weight, bias, mask;
  bool wants_grad_output = false, wants_input, wants_offset, wants_weight, wants_bias = false, wants_mask;

  static Gradients backward(const Geometry& at, const Tensor& input, const Tensor& offset, const Tensor& weight,
                            const std::optional<Tensor>& mask, const std::vector<bool>& output_mask) {
    const auto wanted = as_output_mask<5>(kOp, output_mask);
    Gradients to(input, offset, weight, mask, wanted[0], wanted[1], wanted[2], wanted[4]);
    to.wants_bias = wanted[3];
    if (to.wants_bias) to.bias = empty_bias(at, input);
    return to;
  }

  static Gradients double_backward(const Geometry& at, const Tensor& input, const Tensor& offset, const Tensor& weight,
                                   const std::optional<Tensor>& mask, const std::vector<bool>& output_mask) {
    const auto wanted = as_output_mask<5>(kOp, output_mask);
    Gradients to(input, offset, weight, mask, wanted[1], wanted[2], wanted[3], wanted[4]);
    to.wants_grad_output = wanted[0];
    if (to.wants_grad_output) to.grad_output = empty_output(at, input);
    return to;
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
        input(input_wanted ? empty_gradient(like_input) : empty_placeholder(like_input)),
        offset(offset_wanted ? empty_gradient(like_offset) : empty_placeholder(like_offset)),
        weight(weight_wanted ? empty_gradient(like_weight) : empty_placeholder(like_weight)),
        bias(empty_placeholder(like_input)),
        mask(mask_wanted && like_mask ? empty_gradient(*like_mask) : empty_placeholder(like_input)),
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
