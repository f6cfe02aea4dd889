// The overlap of two boxes, of which one may lower the score of the other: math/score_decay.h has the rest.
#pragma once

#include "math/score_decay.h"

namespace handgrad::matrix_nms {

// `shared` is their intersection. Where that is nothing no quotient is asked for: it may be none.
template <class C>
HANDGRAD_MATH C overlap(C shared, C area_a, C area_b) {
  return shared > 0 ? shared / union_of(area_a, area_b, shared) : C(0);
}

}  // namespace handgrad::matrix_nms
