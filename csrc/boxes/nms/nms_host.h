// What the host entries of all devices need: the checks.
#pragma once

#include <optional>

#include "abi/check.h"
#include "abi/dtype.h"
#include "nms_math.h"

namespace handgrad::nms {

inline constexpr const char* kOp = "nms";

inline void check_arguments(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs) {
  check_floating(kOp, "boxes", boxes);
  check_floating(kOp, "scores", scores);
  HANDGRAD_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, kOp,
                 ": boxes must have shape (boxes, 4), a row for x1, y1, x2, y2; got ", shape_text(boxes));
  const auto one_for_each = [&](const char* name, const Tensor& tensor) {
    HANDGRAD_CHECK(tensor.dim() == 1 && tensor.size(0) == boxes.size(0), kOp, ": ", name,
                   " must have one number for each of the boxes, shape (", boxes.size(0), ",); got ",
                   shape_text(tensor));
    HANDGRAD_CHECK(tensor.is_cpu() == boxes.is_cpu() && tensor.get_device_index() == boxes.get_device_index(), kOp,
                   ": ", name, " must be on the device of boxes");
  };
  one_for_each("scores", scores);
  HANDGRAD_CHECK(scores.scalar_type() == boxes.scalar_type(), kOp, ": scores must have the dtype of boxes, ",
                 dtype_text(boxes.scalar_type()), "; got ", dtype_text(scores.scalar_type()));
  if (idxs) {
    one_for_each("idxs", *idxs);
    HANDGRAD_CHECK(idxs->scalar_type() == ScalarType::Long, kOp, ": idxs must be int64; got ",
                   dtype_text(idxs->scalar_type()));
  }
  HANDGRAD_CHECK(boxes.size(0) < UINT32_MAX, kOp, ": boxes must be less than 2^32; got ", boxes.size(0));
}

// Room for `count` indices on the device of `like`.
inline Tensor empty_indices(int64_t count, const Tensor& like) {
  const int64_t one = 1;
  return empty_strided(Sizes(&count, 1), Sizes(&one, 1), aoti_torch_dtype_int64(), like);
}

}  // namespace handgrad::nms
