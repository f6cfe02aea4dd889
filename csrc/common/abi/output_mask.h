// Which results a backward or a double backward is asked for, as torch's own take it: one bool for each result of the
// schema, `bool[N] output_mask`. What is not asked for costs nothing, and comes back as a tensor without elements.
#pragma once

#include <array>
#include <vector>

#include "abi/check.h"

namespace handgrad {

// The mask of an op with N results.
template <size_t N>
std::array<bool, N> as_output_mask(const char* op, const std::vector<bool>& output_mask) {
  HANDGRAD_CHECK(output_mask.size() == N, op, ": output_mask must have one bool for each result, ", N, "; got ",
                 output_mask.size());
  std::array<bool, N> wanted;
  for (size_t k = 0; k < N; ++k) wanted[k] = output_mask[k];
  return wanted;
}

}  // namespace handgrad
