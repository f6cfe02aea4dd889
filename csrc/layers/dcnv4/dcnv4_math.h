// DCNv4: in which channels a group finds the offsets and masks of its points. Derivation: docs/layers/dcnv4.md.
#pragma once

#include "math/deformed_group.h"

namespace handgrad::dcnv4 {

// Each group has the offsets (x, y) of all of its points, and then their masks.
HANDGRAD_MATH int64_t channels(const DeformedGeometry& geometry) { return geometry.groups * geometry.points * 3; }
// Filled up to a multiple of this, as DCNv4 has it.
HANDGRAD_MATH int64_t filled_up(int64_t channels) { return (channels + 7) / 8 * 8; }

}  // namespace handgrad::dcnv4
