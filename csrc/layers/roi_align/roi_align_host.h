// What the host entries of all devices share: the sizes of a call, its checks, and the results.
#pragma once

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "abi/view.h"
#include "math/boxes.h"
#include "roi_align_math.h"

namespace handgrad::roi_align {

inline constexpr const char* kOp = "roi_align";
// The most of anything that is counted: kernels do so in 32 bits.
inline constexpr int64_t kMost = int64_t{1} << 30;

struct Geometry {
  double spatial_scale;
  int32_t pooled_h, pooled_w, sampling_ratio;
  int32_t batch, channels, height, width, boxes;
  bool aligned;

  HANDGRAD_MATH int64_t bins() const { return int64_t{pooled_h} * pooled_w; }

  template <class C>
  HANDGRAD_MATH BoxAxis<C> axis_h(const Box<C>& box) const {
    return BoxAxis<C>(box.y1, box.y2, static_cast<C>(spatial_scale), sampling_ratio, aligned, pooled_h, height);
  }
  template <class C>
  HANDGRAD_MATH BoxAxis<C> axis_w(const Box<C>& box) const {
    return BoxAxis<C>(box.x1, box.x2, static_cast<C>(spatial_scale), sampling_ratio, aligned, pooled_w, width);
  }
  // The first column of a box cut to a whole number, as torchvision does; -1 if it is no index of the batch.
  template <class C>
  HANDGRAD_MATH int32_t batch_index(C column) const {
    return column > -1 && column < static_cast<C>(batch) ? static_cast<int32_t>(column) : -1;
  }
};

inline ScalarType compute_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Geometry check_arguments(const Tensor& input,  // [N, C, H, W]
                                const Tensor& boxes,  // [K, 5]
                                int64_t pooled_h, int64_t pooled_w, double spatial_scale, int64_t sampling_ratio,
                                bool aligned) {
  check_floating(kOp, "input", input);
  check_rank(kOp, "input", input, 4, "(batch, channels, height, width)");
  HANDGRAD_CHECK(boxes.dim() == 2 && boxes.sizes()[1] == 5, kOp,
                 ": boxes must have shape (boxes, 5): batch index, x1, y1, x2, y2; got ", shape_text(boxes));
  const ScalarType wanted = compute_dtype(input.scalar_type());
  HANDGRAD_CHECK(boxes.scalar_type() == wanted, kOp, ": boxes must have the type that input is computed in, ",
                 dtype_text(wanted), "; got ", dtype_text(boxes.scalar_type()));
  check_device(kOp, "boxes", boxes, "input", input);
  HANDGRAD_CHECK(pooled_h > 0 && pooled_w > 0 && pooled_h <= kMost && pooled_w <= kMost, kOp,
                 ": output_size must be at least 1 and at most 2^30; got ", pooled_h, " x ", pooled_w);
  HANDGRAD_CHECK(sampling_ratio <= INT32_MAX, kOp, ": sampling_ratio must be below 2^31; got ", sampling_ratio);
  const Sizes sizes = input.sizes();
  const int64_t count = boxes.sizes()[0];
  HANDGRAD_CHECK(count == 0 || (sizes[2] > 0 && sizes[3] > 0), kOp,
                 ": input must have at least one pixel where there are boxes; got ", shape_text(input));
  HANDGRAD_CHECK(std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size <= kMost; }), kOp,
                 ": input must have no dimension larger than 2^30; got ", shape_text(input));
  HANDGRAD_CHECK(count <= kMost, kOp, ": boxes must have at most 2^30 rows; got ", count);
  // float32 cannot represent every integer above 2^24.
  HANDGRAD_CHECK(wanted == ScalarType::Double || sizes[0] <= int64_t{1} << 24, kOp,
                 ": input must have at most 2^24 images, which float32 boxes can tell apart; got ", sizes[0]);
  const auto narrow = [](int64_t size) { return static_cast<int32_t>(size); };
  return {spatial_scale,    narrow(pooled_h), narrow(pooled_w), narrow(std::max<int64_t>(sampling_ratio, 0)),
          narrow(sizes[0]), narrow(sizes[1]), narrow(sizes[2]), narrow(sizes[3]),
          narrow(count),    aligned};
}

inline void check_grad_output(const Geometry& geometry, const Tensor& grad_output, const Tensor& input) {
  check_dtype_and_device(kOp, "grad_output", grad_output, "input", input);
  check_shape(kOp, "grad_output", grad_output,
              {geometry.boxes, geometry.channels, geometry.pooled_h, geometry.pooled_w},
              "(boxes, channels, *output_size)");
}

inline void check_directions(const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_boxes,
                             const Tensor& input, const Tensor& boxes) {
  if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
  if (grad_grad_boxes) check_like(kOp, "grad_grad_boxes", *grad_grad_boxes, "boxes", boxes);
}

inline Tensor empty_output(const Geometry& geometry, const Tensor& input) {
  const int64_t sizes[4] = {geometry.boxes, geometry.channels, geometry.pooled_h, geometry.pooled_w};
  return empty_in_layout_of(input, Sizes(sizes, 4));
}

// The results of the backward, to be filled where they are wanted.
struct Backward {
  bool wants_input, wants_boxes;
  Tensor grad_input;  // [N, C, H, W]
  Tensor grad_boxes;  // [K, 5]

  Backward(const Tensor& input, const Tensor& boxes, const std::array<bool, 2>& wanted)
      : wants_input(wanted[0]),
        wants_boxes(wanted[1]),
        grad_input(empty_gradient(wants_input, input)),
        grad_boxes(wants_boxes ? empty_contiguous(boxes.sizes(), boxes) : empty_placeholder(boxes)) {}

  bool is_done() const { return !wants_input && !wants_boxes; }
};

// The same of the double backward, along directions of which each may be None: zero.
struct DoubleBackward : Backward {
  bool wants_grad_output;
  Tensor grad_grad_output;  // [K, C, pooled_h, pooled_w]

  DoubleBackward(const Geometry& geometry, const std::optional<Tensor>& grad_grad_input,
                 const std::optional<Tensor>& grad_grad_boxes, const Tensor& input, const Tensor& boxes,
                 const std::array<bool, 3>& wanted)
      : Backward(input, boxes, {wanted[1], wanted[2]}),
        wants_grad_output(wanted[0]),
        grad_grad_output(wanted[0] ? empty_output(geometry, input) : empty_placeholder(input)) {
    // Nothing is to be done for what is zero whatever the numbers are: everything without a direction, and grad_input,
    // which does not depend on input, without one of the boxes.
    const bool moves = grad_grad_input || grad_grad_boxes;
    if (!moves) clear(wants_grad_output, grad_grad_output);
    if (!moves) clear(wants_boxes, grad_boxes);
    if (!grad_grad_boxes) clear(wants_input, grad_input);
  }

  bool is_done() const { return Backward::is_done() && !wants_grad_output; }

 private:
  static void clear(bool& wanted, const Tensor& result) {
    if (wanted) fill_zero(result);
    wanted = false;
  }
};

}  // namespace handgrad::roi_align
