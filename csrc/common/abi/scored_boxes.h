// Boxes, [K, numbers], with a score each and perhaps a class: the checks.
#pragma once

#include <optional>

#include "abi/check.h"

namespace handgrad {

// `row` says what the numbers of a box are.
inline void check_scored_boxes(const char* op, int64_t numbers, const char* row,
                               const Tensor& boxes,                  // [K, numbers]
                               const Tensor& scores,                 // [K]
                               const std::optional<Tensor>& idxs) {  // [K]
  check_floating(op, "boxes", boxes);
  check_floating(op, "scores", scores);
  HANDGRAD_CHECK(boxes.dim() == 2 && boxes.size(1) == numbers, op, ": boxes must have shape (boxes, ", numbers, "), ",
                 row, "; got ", shape_text(boxes));
  const auto one_for_each = [&](const char* name, const Tensor& tensor) {
    HANDGRAD_CHECK(tensor.dim() == 1 && tensor.size(0) == boxes.size(0), op, ": ", name,
                   " must have one number for each of the boxes, shape (", boxes.size(0), ",); got ",
                   shape_text(tensor));
    check_device(op, name, tensor, "boxes", boxes);
  };
  one_for_each("scores", scores);
  check_dtype_and_device(op, "scores", scores, "boxes", boxes);
  if (idxs) {
    one_for_each("idxs", *idxs);
    HANDGRAD_CHECK(idxs->scalar_type() == ScalarType::Long, op, ": idxs must be int64; got ",
                   dtype_text(idxs->scalar_type()));
  }
  HANDGRAD_CHECK(boxes.size(0) < UINT32_MAX, op, ": boxes must be less than 2^32; got ", boxes.size(0));
}

}  // namespace handgrad
