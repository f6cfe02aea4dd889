// The Lovász extension of the Jaccard loss: what an error is multiplied by, from how many are larger.
//
// The loss of a set of errors, F of them of foreground and B of background, out of G of foreground, is
// J = 1 - (G - F) / (G + B). Errors are added to the set from the largest down, and each is weighed by what it adds:
//
//   of foreground  1 / (G + B)                      of background  (G - F) / ((G + B) (G + B + 1))
//
// where F and B count what was added before. Without foreground J is 1 of any error: the first has all weight.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad {

HANDGRAD_MATH double lovasz_weight(bool foreground, int64_t larger_foreground, int64_t larger_background,
                                   int64_t all_foreground) {
  const double outside = static_cast<double>(all_foreground - larger_foreground);
  const double joined = static_cast<double>(all_foreground + larger_background);
  if (all_foreground == 0) return larger_background == 0 ? 1 : 0;
  return (foreground ? 1 : outside) / (foreground ? joined : joined * (joined + 1));
}

}  // namespace handgrad
