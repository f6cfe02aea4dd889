// The taps that upfirdn2d multiplies with, and what the gradient of its filter is made of. Derivation:
// docs/layers/upfirdn2d.md.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad::upfirdn2d {

// A filter (rows, columns), or one of `columns` taps for both axes, f_i f_j; and, where there is a direction of it, the
// derivative along that: v_ij, or v_i f_j + f_i v_j.
template <class C>
struct Filter {
  const C *taps, *direction;
  int64_t strides[2], direction_strides[2];  // of rows and columns; of columns alone if it is a product
  int32_t rows, columns;
  bool is_product;
  double gain;

  HANDGRAD_MATH C tap(int32_t j) const { return taps[j * strides[1]]; }
  // Of two passes, one of which has the gain.
  HANDGRAD_MATH C of_row(int32_t i) const { return static_cast<C>(gain * static_cast<double>(tap(i))); }
  HANDGRAD_MATH C of_column(int32_t j) const { return tap(j); }
  // Of one pass.
  HANDGRAD_MATH C of_both(int32_t i, int32_t j) const {
    double value = 0;
    if (is_product && direction) {
      value = static_cast<double>(along(i)) * static_cast<double>(tap(j)) +
              static_cast<double>(tap(i)) * static_cast<double>(along(j));
    } else if (is_product) {
      value = static_cast<double>(tap(i)) * static_cast<double>(tap(j));
    } else if (direction) {
      value = static_cast<double>(direction[i * direction_strides[0] + j * direction_strides[1]]);
    } else {
      value = static_cast<double>(taps[i * strides[0] + j * strides[1]]);
    }
    return static_cast<C>(gain * value);
  }
  HANDGRAD_MATH C along(int32_t j) const { return direction[j * direction_strides[1]]; }
};

// What the sum of products of tap (i, j), found by at(i, j), means for tap j of a filter that is the product of itself:
// of which each tap stands in a row and in a column. `other(i)` is the filter, or its direction.
template <class Sums, class Other>
HANDGRAD_MATH double product_gradient(int32_t j, int32_t taps, const Sums& at, const Other& other) {
  double total = 0;
  for (int32_t i = 0; i < taps; ++i) total += (at(i, j) + at(j, i)) * static_cast<double>(other(i));
  return total;
}

}  // namespace handgrad::upfirdn2d
