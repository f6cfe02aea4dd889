// RoIAlign's formula is that of a box along one axis, which it shares with other ops. Derivation:
// docs/layers/roi_align.md.
#pragma once

#include "math/box_axis.h"
