// Position-sensitive RoI pooling: averages of whole pixels, each bin of channels of its own. Derivation:
// docs/layers/ps_roi_pool.md.
#pragma once

#include "kinds/position_roi.h"
#include "math/whole_axis.h"

namespace handgrad {

struct PsRoiPoolOp {
  static constexpr const char* name = "ps_roi_pool";
  using Numbers = std::tuple<>;

  // A box ends before its second coordinate; bins never have the last row and the last column of an image, as
  // torchvision's.
  template <class C>
  static HANDGRAD_MATH WholeAxis<C> axis(C first, C second, const PositionGeometry& geometry, int32_t pooled_size,
                                         int32_t size) {
    return WholeAxis<C>(first, second, static_cast<C>(geometry.spatial_scale), false, pooled_size, size - 1);
  }
};

}  // namespace handgrad
