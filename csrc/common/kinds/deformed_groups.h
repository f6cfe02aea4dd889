// Convolutions without a weight whose groups of channels look where they are told (DCNv3 and its successor): all but
// what the tensors are called, and how offsets and masks lie in them.
//
// In order of appearance: Window, the numbers of a call; its checks; DeformedCall, what its passes have in common; the
// passes, on any device.
#pragma once

#include "kinds/formula.h"
#include "kinds/sampled_groups.h"
#include "math/deformed_group.h"

namespace handgrad {
namespace deformed_groups {

using sampled_groups::Reshaped;
using sampled_groups::SampledResults;
using sampled_groups::SampledTensors;

// As in the schemas.
using Numbers =
    std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, double, bool>;
struct Window {
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, group_channels;
  double offset_scale;
  bool remove_center;

  int64_t points() const { return kernel_h * kernel_w - (remove_center ? 1 : 0); }
};

// What an op is called, and its tensor of offsets.
struct Names {
  const char *op, *offset;
};

// ---- checks ---------------------------------------------------------------------------------------------------------

inline void check_window(const char* op, const Window& window) {
  const auto check = [&](const char* name, int64_t number, int64_t smallest, int64_t largest = INT32_MAX) {
    HANDGRAD_CHECK(number >= smallest && number <= largest, op, ": ", name, " must be at least ", smallest,
                   " and at most ", largest, "; got ", number);
  };
  check("kernel_h", window.kernel_h, 1, DeformedGeometry::kMostTaps);
  check("kernel_w", window.kernel_w, 1, DeformedGeometry::kMostTaps);
  check("stride_h", window.stride_h, 1), check("stride_w", window.stride_w, 1);
  check("pad_h", window.pad_h, 0), check("pad_w", window.pad_w, 0);
  check("dilation_h", window.dilation_h, 1), check("dilation_w", window.dilation_w, 1);
  check("group", window.group, 1), check("group_channels", window.group_channels, 1);
  HANDGRAD_CHECK(!window.remove_center || (window.kernel_h % 2 == 1 && window.kernel_w % 2 == 1), op,
                 ": remove_center must be False where kernel_h or kernel_w is even, since there is no middle; got a "
                 "kernel of ",
                 window.kernel_h, " x ", window.kernel_w);
}

inline void check_reach(DeformedGeometry& geometry, const char* op, const Window& window) {
  const int64_t reach_h = window.dilation_h * (window.kernel_h - 1),
                reach_w = window.dilation_w * (window.kernel_w - 1);
  const Level& level = geometry.levels[0];
  const int64_t padded_h = level.height + 2 * window.pad_h, padded_w = level.width + 2 * window.pad_w;
  HANDGRAD_CHECK(padded_h > reach_h && padded_w > reach_w, op,
                 ": input must, with its padding, be as large as the kernel, ", reach_h + 1, " x ", reach_w + 1,
                 " with its dilation; got ", padded_h, " x ", padded_w);
  geometry.out_h = (padded_h - reach_h - 1) / window.stride_h + 1;
  geometry.out_w = (padded_w - reach_w - 1) / window.stride_w + 1;
  geometry.queries = geometry.out_h * geometry.out_w;
  // Half of the reach, rounded down: an even kernel's middle is its tap above and to the left.
  geometry.first_y = -(reach_h / 2), geometry.first_x = -(reach_w / 2);
  geometry.middle_y = reach_h / 2 - window.pad_h, geometry.middle_x = reach_w / 2 - window.pad_w;
}

inline DeformedGeometry check_input(const Names& names, const Tensor& input, const Window& window) {
  check_floating(names.op, "input", input);
  check_rank(names.op, "input", input, 4, "(batch, height, width, channels)");
  check_window(names.op, window);
  const Sizes sizes = input.sizes();
  for (const int64_t size : {sizes[1], sizes[2]}) {
    HANDGRAD_CHECK(size >= 1 && size <= INT32_MAX, names.op,
                   ": input must have at least one and below 2^31 rows and columns; got ", shape_text(input));
  }
  HANDGRAD_CHECK(sizes[3] == window.group * window.group_channels, names.op,
                 ": input must have group * group_channels channels, ", window.group, " * ", window.group_channels,
                 "; got ", shape_text(input));
  DeformedGeometry geometry{};
  geometry.op = names.op, geometry.coordinates_name = names.offset;
  geometry.batch = sizes[0], geometry.positions = sizes[1] * sizes[2];
  geometry.groups = window.group, geometry.channels = window.group_channels;
  geometry.level_count = 1, geometry.points = window.points();
  geometry.levels[0] = {static_cast<int32_t>(sizes[1]), static_cast<int32_t>(sizes[2]), 0};
  geometry.covers_all = true;
  geometry.stride_h = window.stride_h, geometry.stride_w = window.stride_w;
  geometry.dilation_h = window.dilation_h, geometry.dilation_w = window.dilation_w;
  geometry.kernel_h = static_cast<int32_t>(window.kernel_h);
  geometry.columns_of_tap = static_cast<uint32_t>((int64_t{1} << 32) / window.kernel_h + 1);
  geometry.left_out = static_cast<int32_t>(window.remove_center ? geometry.points / 2 : geometry.points);
  geometry.offset_scale = window.offset_scale;
  check_reach(geometry, names.op, window);
  return geometry;
}

// ---- tensors --------------------------------------------------------------------------------------------------------

// Of (N, H, W, C): how far pixels are apart, if it is a fixed number from row to row too.
inline std::optional<int64_t> stride_if_even(const Tensor& tensor) {
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  if (sizes[1] == 1 || sizes[2] == 1) return strides[sizes[2] == 1 ? 1 : 2];
  return strides[1] == sizes[2] * strides[2] ? std::optional<int64_t>(strides[2]) : std::nullopt;
}

// A tensor whose pixels are evenly apart; another is copied.
inline Tensor evenly(const Tensor& tensor) {
  return stride_if_even(tensor) ? tensor : torch::stable::contiguous(tensor);
}
inline std::optional<Tensor> evenly(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(evenly(*tensor)) : std::nullopt;
}

inline int64_t stride_of_pixels(const Tensor& tensor) { return *stride_if_even(tensor); }

// Of one of (N, H, W, C) in whose channels the groups' `width` channels lie one after the other.
inline Reshaped<4> as_value(const std::optional<Tensor>& tensor, int64_t width) {
  if (!tensor) return {};
  const Sizes strides = tensor->strides();
  return {*tensor, {strides[0], stride_of_pixels(*tensor), width * strides[3], strides[3]}};
}
inline Reshaped<3> as_output(const Tensor& tensor) {
  const Sizes strides = tensor.strides();
  return {tensor, {strides[0], stride_of_pixels(tensor), strides[3]}};
}
inline Reshaped<6> as_coordinates(const std::optional<Tensor>& tensor, int64_t width) {
  if (!tensor) return {};
  const Sizes strides = tensor->strides();
  return {*tensor, {strides[0], stride_of_pixels(*tensor), width * strides[3], 0, 2 * strides[3], strides[3]}};
}
inline Reshaped<5> as_factors(const std::optional<Tensor>& tensor, int64_t width, int64_t begin) {
  if (!tensor) return {};
  const Sizes strides = tensor->strides();
  return {*tensor, {strides[0], stride_of_pixels(*tensor), width * strides[3], 0, strides[3]}, begin * strides[3]};
}

// A call whose arguments are checked. Where there is no mask, it lies behind the offsets, group by group.
struct DeformedCall {
  Names names;
  DeformedGeometry geometry;
  Tensor input;                // [N, H, W, groups * channels]
  Tensor offset;               // [N, out_h, out_w, groups * points * 2 (or 3)]
  std::optional<Tensor> mask;  // [N, out_h, out_w, groups * points]

  bool is_packed() const { return !mask; }
  // Numbers of a group in the channels of offset.
  int64_t width() const { return (is_packed() ? 3 : 2) * geometry.points; }
  std::array<int64_t, 4> output_sizes() const {
    return {geometry.batch, geometry.out_h, geometry.out_w, geometry.groups * geometry.channels};
  }

  Reshaped<6> coordinates(const std::optional<Tensor>& of_offset) const { return as_coordinates(of_offset, width()); }
  Reshaped<5> factors(const std::optional<Tensor>& of_offset, const std::optional<Tensor>& of_mask) const {
    if (is_packed()) return as_factors(of_offset, width(), 2 * geometry.points);
    return as_factors(of_mask, geometry.points, 0);
  }

  SampledTensors tensors() const {
    SampledTensors tensors;
    tensors.value = as_value(evenly(input), geometry.channels);
    const Tensor even_offset = evenly(offset);
    tensors.coordinates = coordinates(even_offset);
    tensors.factors = factors(even_offset, evenly(mask));
    return tensors;
  }

  void check_grad_output(const Tensor& grad_output) const {
    check_dtype_and_device(names.op, "grad_output", grad_output, "input", input);
    check_shape(names.op, "grad_output", grad_output,
                {geometry.batch, geometry.out_h, geometry.out_w, geometry.groups * geometry.channels},
                "(batch, out_h, out_w, channels)");
  }

  SampledResults results(const std::array<bool, 4>& wanted) const {
    const std::array<int64_t, 4> sizes = output_sizes();
    return SampledResults(Sizes(sizes.data(), 4), input, offset, mask ? *mask : offset, wanted);
  }

  void set_results(SampledTensors& tensors, const SampledResults& results) const {
    if (results.wants_output) tensors.output = as_output(results.output);
    if (results.wants_value) tensors.grad_value = as_value(results.value, geometry.channels);
    if (results.wants_coordinates) tensors.grad_coordinates = coordinates(results.coordinates);
    if (is_packed() ? results.wants_coordinates : results.wants_factors) {
      tensors.grad_factors = factors(results.coordinates, results.factors);
    }
    // What only fills up the channels.
    const bool has_rest = is_packed() && offset.sizes()[3] != geometry.groups * width();
    if (has_rest && results.wants_coordinates) fill_zero(results.coordinates);
  }
};

// ---- passes ---------------------------------------------------------------------------------------------------------

template <class Device>
Tensor forward(const DeformedCall& call) {
  const SampledResults results = call.results({true, false, false, false});
  SampledTensors tensors = call.tensors();
  call.set_results(tensors, results);
  Device::forward(call.geometry, tensors);
  return results.output;
}

// wanted: of a double backward all, of a backward the last three.
template <class Device>
SampledResults backward(const DeformedCall& call, const Tensor& grad_output, const std::array<bool, 4>& wanted) {
  call.check_grad_output(grad_output);
  const SampledResults results = call.results(wanted);
  if (results.is_done()) return results;
  SampledTensors tensors = call.tensors();
  tensors.grad_output = as_output(evenly(grad_output));
  call.set_results(tensors, results);
  Device::backward(call.geometry, tensors);
  return results;
}

// Directions of the input, of offset and of mask.
template <class Device>
SampledResults double_backward(const DeformedCall& call, const std::optional<Tensor>& v_input,
                               const std::optional<Tensor>& v_offset, const std::optional<Tensor>& v_mask,
                               const Tensor& grad_output, const std::array<bool, 4>& wanted) {
  call.check_grad_output(grad_output);
  SampledResults results = call.results(wanted);
  results.clear_what_stands_still(v_input.has_value(), v_offset || v_mask);
  if (results.is_done()) return results;
  SampledTensors tensors = call.tensors();
  const std::optional<Tensor> even_v_offset = evenly(v_offset);
  tensors.v_value = as_value(evenly(v_input), call.geometry.channels);
  tensors.v_coordinates = call.coordinates(even_v_offset);
  tensors.v_factors = call.factors(even_v_offset, evenly(v_mask));
  tensors.grad_output = as_output(evenly(grad_output));
  call.set_results(tensors, results);
  Device::double_backward(call.geometry, tensors);
  return results;
}

}  // namespace deformed_groups
}  // namespace handgrad
