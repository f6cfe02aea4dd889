// What ops that pool the pixels of boxes share on the host, for all devices: the sizes of a call, its checks, its
// results.
#pragma once

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "abi/view.h"
#include "math/boxes.h"

namespace handgrad {

// The most of anything that is counted: kernels do so in 32 bits.
inline constexpr int64_t kMostPooled = int64_t{1} << 30;

struct RoiGeometry {
  const char* op;
  double spatial_scale;
  int32_t pooled_h, pooled_w;
  int32_t batch, channels, height, width, boxes;
  // Of the output: those of the input, but where bins have channels of their own.
  int32_t output_channels;

  HANDGRAD_MATH int64_t bins() const { return int64_t{pooled_h} * pooled_w; }
  // The first column of a box cut to a whole number, as torchvision does; -1 if it is no index of the batch.
  template <class C>
  HANDGRAD_MATH int32_t batch_index(C column) const {
    return column > -1 && column < static_cast<C>(batch) ? static_cast<int32_t>(column) : -1;
  }
};

// Boxes are rows of `columns` numbers, of which `meaning` says what they are.
inline RoiGeometry check_rois(const char* op, const Tensor& input,  // [N, C, H, W]
                              const Tensor& boxes,                  // [K, columns]
                              int64_t columns, const char* meaning, int64_t pooled_h, int64_t pooled_w,
                              double spatial_scale) {
  check_floating(op, "input", input);
  check_rank(op, "input", input, 4, "(batch, channels, height, width)");
  HANDGRAD_CHECK(boxes.dim() == 2 && boxes.sizes()[1] == columns, op, ": boxes must have shape (boxes, ", columns,
                 "): ", meaning, "; got ", shape_text(boxes));
  const ScalarType wanted = input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  HANDGRAD_CHECK(boxes.scalar_type() == wanted, op, ": boxes must have the type that input is computed in, ",
                 dtype_text(wanted), "; got ", dtype_text(boxes.scalar_type()));
  check_device(op, "boxes", boxes, "input", input);
  HANDGRAD_CHECK(pooled_h > 0 && pooled_w > 0 && pooled_h <= kMostPooled && pooled_w <= kMostPooled, op,
                 ": output_size must be at least 1 and at most 2^30; got ", pooled_h, " x ", pooled_w);
  const Sizes sizes = input.sizes();
  const int64_t count = boxes.sizes()[0];
  HANDGRAD_CHECK(count == 0 || (sizes[2] > 0 && sizes[3] > 0), op,
                 ": input must have at least one pixel where there are boxes; got ", shape_text(input));
  HANDGRAD_CHECK(std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size <= kMostPooled; }), op,
                 ": input must have no dimension larger than 2^30; got ", shape_text(input));
  HANDGRAD_CHECK(count <= kMostPooled, op, ": boxes must have at most 2^30 rows; got ", count);
  // float32 cannot represent every integer above 2^24.
  HANDGRAD_CHECK(wanted == ScalarType::Double || sizes[0] <= int64_t{1} << 24, op,
                 ": input must have at most 2^24 images, which float32 boxes can tell apart; got ", sizes[0]);
  const auto narrow = [](int64_t size) { return static_cast<int32_t>(size); };
  return {op,
          spatial_scale,
          narrow(pooled_h),
          narrow(pooled_w),
          narrow(sizes[0]),
          narrow(sizes[1]),
          narrow(sizes[2]),
          narrow(sizes[3]),
          narrow(count),
          narrow(sizes[1])};
}

// Sampling points of a bin along an axis; 0: as many as the bin has pixels.
inline int32_t checked_sampling_ratio(const char* op, int64_t sampling_ratio) {
  HANDGRAD_CHECK(sampling_ratio <= INT32_MAX, op, ": sampling_ratio must be below 2^31; got ", sampling_ratio);
  return static_cast<int32_t>(std::max<int64_t>(sampling_ratio, 0));
}

inline void check_grad_output(const RoiGeometry& geometry, const Tensor& grad_output, const Tensor& input) {
  check_dtype_and_device(geometry.op, "grad_output", grad_output, "input", input);
  check_shape(geometry.op, "grad_output", grad_output,
              {geometry.boxes, geometry.output_channels, geometry.pooled_h, geometry.pooled_w},
              "(boxes, channels, *output_size)");
}

inline Tensor empty_output(const RoiGeometry& geometry, const Tensor& input) {
  const int64_t sizes[4] = {geometry.boxes, geometry.output_channels, geometry.pooled_h, geometry.pooled_w};
  return empty_in_layout_of(input, Sizes(sizes, 4));
}

// The results of the backward of an op whose boxes may have a gradient, to be filled where they are wanted.
struct RoiGradients {
  bool wants_input, wants_boxes;
  Tensor grad_input;  // [N, C, H, W]
  Tensor grad_boxes;  // [K, columns]

  RoiGradients(const Tensor& input, const Tensor& boxes, const std::array<bool, 2>& wanted)
      : wants_input(wanted[0]),
        wants_boxes(wanted[1]),
        grad_input(empty_gradient(wants_input, input)),
        grad_boxes(wants_boxes ? empty_contiguous(boxes.sizes(), boxes) : empty_placeholder(boxes)) {}

  bool is_done() const { return !wants_input && !wants_boxes; }
};

// The same of its double backward, along directions of which each may be None: zero.
struct RoiSecondGradients : RoiGradients {
  bool wants_grad_output;
  Tensor grad_grad_output;  // [K, C, pooled_h, pooled_w]

  RoiSecondGradients(const RoiGeometry& geometry, const std::optional<Tensor>& grad_grad_input,
                     const std::optional<Tensor>& grad_grad_boxes, const Tensor& input, const Tensor& boxes,
                     const std::array<bool, 3>& wanted)
      : RoiGradients(input, boxes, {wanted[1], wanted[2]}), wants_grad_output(wanted[0]) {
    if (grad_grad_input) check_like(geometry.op, "grad_grad_input", *grad_grad_input, "input", input);
    if (grad_grad_boxes) check_like(geometry.op, "grad_grad_boxes", *grad_grad_boxes, "boxes", boxes);
    grad_grad_output = wants_grad_output ? empty_output(geometry, input) : empty_placeholder(input);
    // Nothing is to be done for what is zero whatever the numbers are: everything without a direction, and grad_input,
    // which does not depend on input, without one of the boxes.
    const bool moves = grad_grad_input || grad_grad_boxes;
    if (!moves) clear(wants_grad_output, grad_grad_output);
    if (!moves) clear(wants_boxes, grad_boxes);
    if (!grad_grad_boxes) clear(wants_input, grad_input);
  }

  bool is_done() const { return RoiGradients::is_done() && !wants_grad_output; }

 private:
  static void clear(bool& wanted, const Tensor& result) {
    if (wanted) fill_zero(result);
    wanted = false;
  }
};

// The results of the double backward of an op that is linear in the image wherever it has a derivative, to be filled
// where they are wanted: the output's direction. The image has no second derivative.
struct RoiDoubleBackward {
  bool wants_output;
  Tensor grad_grad_output, grad_input;

  RoiDoubleBackward(const RoiGeometry& geometry, const std::optional<Tensor>& grad_grad_input, const Tensor& input,
                    const std::vector<bool>& output_mask) {
    const auto wanted = as_output_mask<2>(geometry.op, output_mask);
    if (grad_grad_input) check_like(geometry.op, "grad_grad_input", *grad_grad_input, "input", input);
    wants_output = wanted[0] && grad_grad_input;
    grad_grad_output = wanted[0] ? empty_output(geometry, input) : empty_placeholder(input);
    if (wanted[0] && !grad_grad_input) fill_zero(grad_grad_output);
    grad_input = empty_gradient(wanted[1], input);
    if (wanted[1]) fill_zero(grad_input);
  }
};

}  // namespace handgrad
