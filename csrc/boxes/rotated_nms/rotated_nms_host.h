// What the host entries of all devices need: the checks.
#pragma once

#include "abi/dtype.h"
#include "abi/scored_boxes.h"
#include "rotated_nms_math.h"

namespace handgrad::rotated_nms {

inline constexpr const char* kOp = "rotated_nms";

inline void check_arguments(const Tensor& boxes,                  // [K, 5]
                            const Tensor& scores,                 // [K]
                            const std::optional<Tensor>& idxs) {  // [K]
  check_scored_boxes(kOp, 5, "a row for cx, cy, w, h, angle", boxes, scores, idxs);
}

}  // namespace handgrad::rotated_nms
