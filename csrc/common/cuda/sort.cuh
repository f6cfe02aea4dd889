// Orders on the device, by torch's sort.
#pragma once

#include <array>

#include "abi/tensor.h"

namespace handgrad {

// Numbers by decreasing value, and the indices that they had.
struct Decreasing {
  Tensor values, order;
};

// Sorts `values` along dimension `dim`; equal ones keep their order, and NaN comes before all others.
inline Decreasing sort_decreasing(const Tensor& values, int64_t dim) {
  std::array<StableIValue, 4> stack{torch::stable::detail::from(values),
                                    torch::stable::detail::from(std::optional<bool>(true)),
                                    torch::stable::detail::from(dim), torch::stable::detail::from(true)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  // Taking a tensor from the stack is what frees it.
  Tensor sorted = torch::stable::detail::to<Tensor>(stack[0]), order = torch::stable::detail::to<Tensor>(stack[1]);
  return {sorted, order};
}

// Indices of `values`, one-dimensional, by decreasing value.
inline Tensor decreasing_order(const Tensor& values) { return sort_decreasing(values, 0).order; }

}  // namespace handgrad
