// Position-sensitive RoIAlign: averages of samples between pixels, as RoIAlign's of boxes as they are ("aligned"), each
// bin of channels of its own. Derivation: docs/layers/ps_roi_align.md.
#pragma once

#include "kinds/position_roi.h"
#include "math/box_axis.h"

namespace handgrad {

struct PsRoiAlignOp {
  static constexpr const char* name = "ps_roi_align";
  using Numbers = std::tuple<int64_t>;  // sampling_ratio

  template <class C>
  static HANDGRAD_MATH BoxAxis<C> axis(C first, C second, const PositionGeometry& geometry, int32_t pooled_size,
                                       int32_t size) {
    return BoxAxis<C>(first, second, static_cast<C>(geometry.spatial_scale), geometry.sampling_ratio, true, pooled_size,
                      size);
  }
};

}  // namespace handgrad
