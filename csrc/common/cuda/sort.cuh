// Orders on the device, by torch's sort.
#pragma once

#include <array>

#include "abi/tensor.h"

namespace handgrad {

// Indices of `values`, one-dimensional, by decreasing value; equal ones in their order, NaN before all others.
inline Tensor decreasing_order(const Tensor& values) {
  std::array<StableIValue, 4> stack{torch::stable::detail::from(values),
                                    torch::stable::detail::from(std::optional<bool>(true)),
                                    torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(true)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  // The sorted values are not wanted; taking them is what frees them.
  torch::stable::detail::to<Tensor>(stack[0]);
  return torch::stable::detail::to<Tensor>(stack[1]);
}

}  // namespace handgrad
