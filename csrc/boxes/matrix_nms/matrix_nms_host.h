// What the host entries of all devices need: the checks.
#pragma once

#include "abi/scored_boxes.h"
#include "matrix_nms_math.h"

namespace handgrad::matrix_nms {

inline constexpr const char* kOp = "matrix_nms";

inline void check_arguments(const Tensor& boxes,                  // [K, 4]
                            const Tensor& scores,                 // [K]
                            const std::optional<Tensor>& idxs) {  // [K]
  check_scored_boxes(kOp, 4, "a row for x1, y1, x2, y2", boxes, scores, idxs);
}

}  // namespace handgrad::matrix_nms
