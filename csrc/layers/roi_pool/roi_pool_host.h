// What the host entries of all devices share.
#pragma once

#include "kinds/roi.h"
#include "roi_pool_math.h"

namespace handgrad::roi_pool {

inline constexpr const char* kOp = "roi_pool";

inline RoiGeometry check_arguments(const Tensor& input,  // [N, C, H, W]
                                   const Tensor& boxes,  // [K, 5]
                                   int64_t pooled_h, int64_t pooled_w, double spatial_scale) {
  const RoiGeometry geometry =
      check_rois(kOp, input, boxes, 5, "batch index, x1, y1, x2, y2", pooled_h, pooled_w, spatial_scale);
  // Which pixel of an image is the largest is a number of 32 bits.
  HANDGRAD_CHECK(int64_t{geometry.height} * geometry.width <= INT32_MAX, kOp,
                 ": input must have less than 2^31 pixels in an image; got ", shape_text(input));
  return geometry;
}

}  // namespace handgrad::roi_pool
