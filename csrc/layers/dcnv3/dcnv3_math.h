// DCNv3: in which channels a group finds the offsets and masks of its points. Derivation: docs/layers/dcnv3.md.
#pragma once

#include "math/deformed_group.h"

namespace handgrad::dcnv3 {

// Each point has an offset (x, y) in one tensor and a mask in another, groups outermost.
HANDGRAD_MATH int64_t offset_channels(const DeformedGeometry& geometry) {
  return geometry.groups * geometry.points * 2;
}
HANDGRAD_MATH int64_t mask_channels(const DeformedGeometry& geometry) { return geometry.groups * geometry.points; }

}  // namespace handgrad::dcnv3
