// What the host entries of all devices take of this op: the sizes of a call, and its checks.
#pragma once

#include "kinds/sampled_roi.h"
#include "roi_align_rotated_math.h"

namespace handgrad::roi_align_rotated {

struct Geometry : RoiGeometry {
  int32_t sampling_ratio;
  bool aligned, clockwise;

  template <class C>
  HANDGRAD_MATH TurnedBox<C> turned(const RotatedBox<C>& box) const {
    return TurnedBox<C>(box, static_cast<C>(spatial_scale), sampling_ratio, aligned, clockwise, pooled_h, pooled_w,
                        height, width);
  }
};

struct RoiAlignRotatedOp {
  static constexpr const char* name = "roi_align_rotated";
  using Numbers = std::tuple<int64_t, bool, bool>;  // sampling_ratio, aligned, clockwise

  static Geometry checked(const Tensor& input,  // [N, C, H, W]
                          const Tensor& boxes,  // [K, 6]
                          int64_t pooled_h, int64_t pooled_w, double spatial_scale, int64_t sampling_ratio,
                          bool aligned, bool clockwise) {
    return {check_rois(name, input, boxes, 6, "batch index, center x, center y, width, height, angle", pooled_h,
                       pooled_w, spatial_scale),
            checked_sampling_ratio(name, sampling_ratio), aligned, clockwise};
  }
};

}  // namespace handgrad::roi_align_rotated
