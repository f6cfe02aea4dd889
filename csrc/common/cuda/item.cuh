// Numbers that the host waits for.
#pragma once

#include "abi/tensor.h"

namespace handgrad {

// Element `index` of one-dimensional int64 memory on a device, once all work before it is done.
inline int64_t item(const Tensor& memory, int64_t index = 0) {
  int64_t value = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_item_int64(torch::stable::select(memory, 0, index).get(), &value));
  return value;
}

}  // namespace handgrad
