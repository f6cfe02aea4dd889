// The taps of blur_pool_2d, which both axes have. Derivation: docs/layers/blur_pool_2d.md.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad::blur_pool_2d {

inline constexpr int32_t kMostTaps = 64;

// Few enough to be an argument of a kernel.
template <class C>
struct Taps {
  C values[kMostTaps];

  HANDGRAD_MATH bool is_separable() const { return true; }
  HANDGRAD_MATH C of_row(int32_t t) const { return values[t]; }
  HANDGRAD_MATH C of_column(int32_t t) const { return values[t]; }
  HANDGRAD_MATH C of_both(int32_t i, int32_t j) const { return values[i] * values[j]; }
};

}  // namespace handgrad::blur_pool_2d
