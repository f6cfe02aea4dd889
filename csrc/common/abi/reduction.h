// The three reductions of a loss, numbered as torch numbers them.
#pragma once

#include "abi/check.h"

namespace handgrad {

enum class Reduction : int64_t { none = 0, mean = 1, sum = 2 };

inline Reduction as_reduction(const char* op, int64_t value) {
  HANDGRAD_CHECK(value >= 0 && value <= 2, op, ": reduction must be 0 (none), 1 (mean) or 2 (sum); got ", value);
  return static_cast<Reduction>(value);
}

// What each element's gradient is multiplied by, beside grad_output: 1/n under the mean.
inline double reduction_scale(Reduction reduction, int64_t numel) {
  return reduction == Reduction::mean ? 1.0 / static_cast<double>(numel) : 1.0;
}

}  // namespace handgrad
