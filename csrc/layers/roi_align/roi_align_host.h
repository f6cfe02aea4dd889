// What the host entries of all devices share: the sizes of a call and its checks.
#pragma once

#include <optional>

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/image.h"
#include "abi/output_mask.h"
#include "roi_align_math.h"

namespace handgrad::roi_align {

inline constexpr const char* kOp = "roi_align";

struct Options {
  int64_t pooled_h, pooled_w;
  double spatial_scale;
  int64_t sampling_ratio;
  bool aligned;
};

struct Geometry {
  Options options;
  int64_t batch, channels, height, width, boxes;

  int64_t bins() const { return options.pooled_h * options.pooled_w; }
};

// One row of boxes.
template <class C>
struct Box {
  C image, x1, y1, x2, y2;

  // Its number cut to a whole one, as torchvision does; -1 if there is no such image.
  HANDGRAD_MATH int64_t image_of(int64_t batch) const {
    return image > -1 && image < static_cast<C>(batch) ? static_cast<int64_t>(image) : -1;
  }
  HANDGRAD_MATH BoxAxis<C> rows(const Geometry& at) const {
    return BoxAxis<C>(y1, y2, static_cast<C>(at.options.spatial_scale), at.options.sampling_ratio, at.options.aligned,
                      at.options.pooled_h, at.height);
  }
  HANDGRAD_MATH BoxAxis<C> columns(const Geometry& at) const {
    return BoxAxis<C>(x1, x2, static_cast<C>(at.options.spatial_scale), at.options.sampling_ratio, at.options.aligned,
                      at.options.pooled_w, at.width);
  }
};

inline ScalarType compute_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Geometry check_arguments(const Tensor& input, const Tensor& boxes, const Options& options) {
  check_floating(kOp, "input", input);
  HANDGRAD_CHECK(input.dim() == 4, kOp, ": input must have 4 dimensions (batch, channels, height, width); got ",
                 shape_text(input));
  HANDGRAD_CHECK(boxes.dim() == 2 && boxes.sizes()[1] == 5, kOp,
                 ": boxes must have shape (boxes, 5): the number of an image, x1, y1, x2, y2; got ", shape_text(boxes));
  const ScalarType wanted = compute_dtype(input.scalar_type());
  HANDGRAD_CHECK(boxes.scalar_type() == wanted, kOp, ": boxes must have the type that input is computed in, ",
                 dtype_text(wanted), "; got ", dtype_text(boxes.scalar_type()));
  HANDGRAD_CHECK(boxes.is_cpu() == input.is_cpu() && boxes.get_device_index() == input.get_device_index(), kOp,
                 ": boxes must be on the device of input");
  HANDGRAD_CHECK(
      options.pooled_h > 0 && options.pooled_w > 0 && options.pooled_h <= INT32_MAX && options.pooled_w <= INT32_MAX,
      kOp, ": output_size must be at least 1 and below 2^31; got ", options.pooled_h, " x ", options.pooled_w);
  HANDGRAD_CHECK(options.sampling_ratio <= INT32_MAX, kOp, ": sampling_ratio must be below 2^31; got ",
                 options.sampling_ratio);
  const Sizes sizes = input.sizes();
  const Geometry at{options, sizes[0], sizes[1], sizes[2], sizes[3], boxes.sizes()[0]};
  HANDGRAD_CHECK(at.boxes == 0 || (at.height > 0 && at.width > 0), kOp,
                 ": input must have at least one pixel where there are boxes; got ", shape_text(input));
  // Beyond, the numbers of images are no longer all there.
  HANDGRAD_CHECK(wanted == ScalarType::Double || at.batch <= int64_t{1} << 24, kOp,
                 ": input must have at most 2^24 images, which float32 boxes can tell apart; got ", at.batch);
  return at;
}

inline void check_grad_output(const Geometry& at, const Tensor& grad_output, const Tensor& input) {
  HANDGRAD_CHECK(grad_output.scalar_type() == input.scalar_type() && grad_output.is_cpu() == input.is_cpu() &&
                     grad_output.get_device_index() == input.get_device_index(),
                 kOp, ": grad_output must have the dtype and the device of input, ", dtype_text(input.scalar_type()),
                 "; got ", dtype_text(grad_output.scalar_type()));
  const Sizes sizes = grad_output.sizes();
  HANDGRAD_CHECK(grad_output.dim() == 4 && sizes[0] == at.boxes && sizes[1] == at.channels &&
                     sizes[2] == at.options.pooled_h && sizes[3] == at.options.pooled_w,
                 kOp, ": grad_output must have shape (boxes, channels, *output_size), here (", at.boxes, ", ",
                 at.channels, ", ", at.options.pooled_h, ", ", at.options.pooled_w, "); got ", shape_text(grad_output));
}

inline Tensor empty_output(const Geometry& at, const Tensor& input) {
  const int64_t sizes[4] = {at.boxes, at.channels, at.options.pooled_h, at.options.pooled_w};
  return empty_image(Sizes(sizes, 4), !input.is_contiguous() && is_channels_last(input), input);
}

inline Tensor empty_grad_boxes(const Geometry& at, const Tensor& boxes) {
  const int64_t sizes[2] = {at.boxes, 5}, strides[2] = {5, 1};
  return empty_strided(Sizes(sizes, 2), Sizes(strides, 2), boxes);
}

inline Geometry check_backward(const Tensor& grad_output, const Tensor& input, const Tensor& boxes,
                               const Options& options) {
  const Geometry at = check_arguments(input, boxes, options);
  check_grad_output(at, grad_output, input);
  return at;
}

inline Geometry check_double_backward(const std::optional<Tensor>& grad_grad_input,
                                      const std::optional<Tensor>& grad_grad_boxes, const Tensor& grad_output,
                                      const Tensor& input, const Tensor& boxes, const Options& options) {
  const Geometry at = check_backward(grad_output, input, boxes, options);
  if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
  if (grad_grad_boxes) check_like(kOp, "grad_grad_boxes", *grad_grad_boxes, "boxes", boxes);
  return at;
}

// The head of the backward on every device: the checks, and then its outputs to be filled.
struct Backward {
  Geometry at;
  bool wants_input, wants_boxes;
  Tensor grad_input, grad_boxes;

  Backward(const Tensor& grad_output, const Tensor& input, const Tensor& boxes, const Options& options,
           const std::vector<bool>& output_mask)
      : Backward(check_backward(grad_output, input, boxes, options), input, boxes,
                 as_output_mask<2>(kOp, output_mask)) {}

 protected:
  Backward(const Geometry& checked, const Tensor& input, const Tensor& boxes, const std::array<bool, 2>& wanted)
      : at(checked),
        wants_input(wanted[0]),
        wants_boxes(wanted[1]),
        grad_input(wants_input ? empty_gradient(input) : empty_placeholder(input)),
        grad_boxes(wants_boxes ? empty_grad_boxes(at, boxes) : empty_placeholder(boxes)) {}
};

// The same for the double backward, along directions of which each may be None: zero.
struct DoubleBackward : Backward {
  bool wants_grad_output;
  Tensor grad_grad_output;

  DoubleBackward(const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_boxes,
                 const Tensor& grad_output, const Tensor& input, const Tensor& boxes, const Options& options,
                 const std::vector<bool>& output_mask)
      : DoubleBackward(check_double_backward(grad_grad_input, grad_grad_boxes, grad_output, input, boxes, options),
                       input, boxes, as_output_mask<3>(kOp, output_mask)) {
    // Nothing is to be done for what is zero whatever the numbers are: everything without a direction, and the image's
    // gradient without one of the boxes, since grad_input does not depend on input.
    const bool moves = grad_grad_input || grad_grad_boxes;
    if (!moves) clear(wants_grad_output, grad_grad_output);
    if (!moves) clear(wants_boxes, grad_boxes);
    if (!grad_grad_boxes) clear(wants_input, grad_input);
  }

 private:
  DoubleBackward(const Geometry& checked, const Tensor& input, const Tensor& boxes, const std::array<bool, 3>& wanted)
      : Backward(checked, input, boxes, {wanted[1], wanted[2]}),
        wants_grad_output(wanted[0]),
        grad_grad_output(wants_grad_output ? empty_output(at, input) : empty_placeholder(input)) {}

  static void clear(bool& wanted, const Tensor& result) {
    if (wanted) fill_zero(result);
    wanted = false;
  }
};

// The boxes and what is like them: row k is five numbers.
template <class C>
struct BoxTable {
  C* data;
  int64_t row, column;

  HANDGRAD_MATH C* at(int64_t k, int64_t c) const { return data + k * row + c * column; }
};

template <class C>
BoxTable<const C> box_table(const Tensor& tensor) {
  return {tensor.const_data_ptr<C>(), tensor.strides()[0], tensor.strides()[1]};
}
template <class C>
BoxTable<C> mutable_box_table(const Tensor& tensor) {
  return {tensor.mutable_data_ptr<C>(), tensor.strides()[0], tensor.strides()[1]};
}

}  // namespace handgrad::roi_align
