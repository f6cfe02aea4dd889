// What the gradient of upfirdn2d's filter is made of. Derivation: docs/layers/upfirdn2d.md.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad::upfirdn2d {

// What the sum of products of tap (i, j), found by at(i, j), means for tap j of a filter that is the product of itself:
// of which each tap stands in a row and in a column. `other(i)` is the filter, or its direction.
template <class Sums, class Other>
HANDGRAD_MATH double product_gradient(int32_t j, int32_t taps, const Sums& at, const Other& other) {
  double total = 0;
  for (int32_t i = 0; i < taps; ++i) total += (at(i, j) + at(j, i)) * static_cast<double>(other(i));
  return total;
}

}  // namespace handgrad::upfirdn2d
