// What the host entries of all devices need: the checks.
#pragma once

#include "abi/check.h"
#include "abi/dtype.h"
#include "nms_math.h"

namespace handgrad::nms {

inline constexpr const char* kOp = "nms";

inline void check_arguments(const Tensor& boxes,                  // [K, 4]
                            const Tensor& scores,                 // [K]
                            const std::optional<Tensor>& idxs) {  // [K]
  check_floating(kOp, "boxes", boxes);
  check_floating(kOp, "scores", scores);
  HANDGRAD_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, kOp,
                 ": boxes must have shape (boxes, 4), a row for x1, y1, x2, y2; got ", shape_text(boxes));
  const auto one_for_each = [&](const char* name, const Tensor& tensor) {
    HANDGRAD_CHECK(tensor.dim() == 1 && tensor.size(0) == boxes.size(0), kOp, ": ", name,
                   " must have one number for each of the boxes, shape (", boxes.size(0), ",); got ",
                   shape_text(tensor));
    check_device(kOp, name, tensor, "boxes", boxes);
  };
  one_for_each("scores", scores);
  check_dtype_and_device(kOp, "scores", scores, "boxes", boxes);
  if (idxs) {
    one_for_each("idxs", *idxs);
    HANDGRAD_CHECK(idxs->scalar_type() == ScalarType::Long, kOp, ": idxs must be int64; got ",
                   dtype_text(idxs->scalar_type()));
  }
  HANDGRAD_CHECK(boxes.size(0) < UINT32_MAX, kOp, ": boxes must be less than 2^32; got ", boxes.size(0));
}

}  // namespace handgrad::nms
