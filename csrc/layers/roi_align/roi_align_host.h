// What the host entries of all devices take of this op: the sizes of a call, and its checks.
#pragma once

#include "kinds/sampled_roi.h"
#include "roi_align_math.h"

namespace handgrad::roi_align {

struct Geometry : RoiGeometry {
  int32_t sampling_ratio;
  bool aligned;

  template <class C>
  HANDGRAD_MATH BoxAxis<C> axis_h(const Box<C>& box) const {
    return BoxAxis<C>(box.y1, box.y2, static_cast<C>(spatial_scale), sampling_ratio, aligned, pooled_h, height);
  }
  template <class C>
  HANDGRAD_MATH BoxAxis<C> axis_w(const Box<C>& box) const {
    return BoxAxis<C>(box.x1, box.x2, static_cast<C>(spatial_scale), sampling_ratio, aligned, pooled_w, width);
  }
};

struct RoiAlignOp {
  static constexpr const char* name = "roi_align";
  using Numbers = std::tuple<int64_t, bool>;  // sampling_ratio, aligned

  static Geometry checked(const Tensor& input,  // [N, C, H, W]
                          const Tensor& boxes,  // [K, 5]
                          int64_t pooled_h, int64_t pooled_w, double spatial_scale, int64_t sampling_ratio,
                          bool aligned) {
    return {check_rois(name, input, boxes, 5, "batch index, x1, y1, x2, y2", pooled_h, pooled_w, spatial_scale),
            checked_sampling_ratio(name, sampling_ratio), aligned};
  }
};

}  // namespace handgrad::roi_align
