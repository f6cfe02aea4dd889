// Boxes, [K, numbers], or masks, with a score each and perhaps a class: the checks.
#pragma once

#include <optional>

#include "abi/check.h"

namespace handgrad {

// `tensor` has a number for each of the boxes, or what else the first dimension of `model` counts.
inline void check_one_for_each(const char* op, const char* name, const Tensor& tensor, const char* model_name,
                               const Tensor& model) {
  HANDGRAD_CHECK(tensor.dim() == 1 && tensor.size(0) == model.size(0), op, ": ", name,
                 " must have one number for each of the ", model_name, ", shape (", model.size(0), ",); got ",
                 shape_text(tensor));
  check_device(op, name, tensor, model_name, model);
}

// They are int64, and one for each.
inline void check_classes(const char* op, const char* name, const Tensor& tensor, const char* model_name,
                          const Tensor& model) {
  check_one_for_each(op, name, tensor, model_name, model);
  HANDGRAD_CHECK(tensor.scalar_type() == ScalarType::Long, op, ": ", name, " must be int64; got ",
                 dtype_text(tensor.scalar_type()));
}

// `row` says what the numbers of a box are.
inline void check_scored_boxes(const char* op, int64_t numbers, const char* row,
                               const Tensor& boxes,                  // [K, numbers]
                               const Tensor& scores,                 // [K]
                               const std::optional<Tensor>& idxs) {  // [K]
  check_floating(op, "boxes", boxes);
  check_floating(op, "scores", scores);
  HANDGRAD_CHECK(boxes.dim() == 2 && boxes.size(1) == numbers, op, ": boxes must have shape (boxes, ", numbers, "), ",
                 row, "; got ", shape_text(boxes));
  check_one_for_each(op, "scores", scores, "boxes", boxes);
  check_dtype_and_device(op, "scores", scores, "boxes", boxes);
  if (idxs) check_classes(op, "idxs", *idxs, "boxes", boxes);
  HANDGRAD_CHECK(boxes.size(0) < UINT32_MAX, op, ": boxes must be less than 2^32; got ", boxes.size(0));
}

}  // namespace handgrad
