// What the host entries of all devices need: the checks.
#pragma once

#include "abi/dtype.h"
#include "abi/scored_boxes.h"
#include "nms_math.h"

namespace handgrad::nms {

inline constexpr const char* kOp = "nms";

inline void check_arguments(const Tensor& boxes,                  // [K, 4]
                            const Tensor& scores,                 // [K]
                            const std::optional<Tensor>& idxs) {  // [K]
  check_scored_boxes(kOp, 4, "a row for x1, y1, x2, y2", boxes, scores, idxs);
}

}  // namespace handgrad::nms
