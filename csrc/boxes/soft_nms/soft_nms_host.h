// What the host entries of all devices need: the checks, and the choice of the formula.
#pragma once

#include "abi/check.h"
#include "abi/dtype.h"
#include "soft_nms_math.h"

namespace handgrad::soft_nms {

inline constexpr const char* kOp = "soft_nms";

inline void check_arguments(const Tensor& boxes,     // [K, 4]
                            const Tensor& scores) {  // [K]
  check_floating(kOp, "boxes", boxes);
  check_floating(kOp, "scores", scores);
  HANDGRAD_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, kOp,
                 ": boxes must have shape (boxes, 4), a row for x1, y1, x2, y2; got ", shape_text(boxes));
  HANDGRAD_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0), kOp,
                 ": scores must have one number for each of the boxes, shape (", boxes.size(0), ",); got ",
                 shape_text(scores));
  check_dtype_and_device(kOp, "scores", scores, "boxes", boxes);
  HANDGRAD_CHECK(boxes.size(0) <= INT32_MAX, kOp, ": boxes must be less than 2^31; got ", boxes.size(0));
}

// Calls body(tag, decay) with the element type of `boxes` and the formula.
template <class Body>
void with_decay(const Tensor& boxes, double iou_threshold, double sigma, bool gaussian, const Body& body) {
  dispatch_floating(kOp, boxes.scalar_type(), [&](auto tag) {
    dispatch_bool(gaussian, [&](auto is_gaussian) {
      using C = Compute<typename decltype(tag)::type>;
      body(tag, Decay<C, decltype(is_gaussian)::value>(iou_threshold, sigma));
    });
  });
}

inline Tensor empty_scores(int64_t count, const Tensor& like) { return empty_contiguous(Sizes(&count, 1), like); }

}  // namespace handgrad::soft_nms
