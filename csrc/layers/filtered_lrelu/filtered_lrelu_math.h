// What becomes of a sample at the high rate. Derivation: docs/layers/filtered_lrelu.md. z is the upsampled input:
//
//   value   min(max(gain lrelu(z), -clamp), clamp)
//   pull    g times its slope at z: of the gradient that comes back, or of a direction that goes along
#pragma once

#include "math/clamped_activation.h"

namespace handgrad::filtered_lrelu {

template <class T>
using Formula = ClampedActivation<T, LeakyRelu<T>>;

}  // namespace handgrad::filtered_lrelu
