// Tensors of (batch, channels, positions…) as three dimensions, for kernels that do not care how positions are
// arranged.
#pragma once

#include <array>

#include "abi/view.h"

namespace handgrad {

// The stride of positions, the dimensions from `first` on, if it is a fixed one; 0 for a single position.
inline std::optional<int64_t> stride_of_positions(const Tensor& tensor, size_t first) {
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  std::optional<int64_t> stride;
  int64_t next = 0;
  for (size_t d = sizes.size(); d-- > first;) {
    if (sizes[d] == 1) continue;
    if (!stride) {
      stride = strides[d];
    } else if (strides[d] != next) {
      return std::nullopt;
    }
    next = strides[d] * sizes[d];
  }
  return stride.value_or(0);
}

// How it lies in memory, if the positions of a channel are a fixed stride apart: what NCHW, channels_last, slices of
// them and expanded scalars all are.
inline std::optional<std::array<int64_t, 3>> strides_of_channels(const Tensor& tensor) {
  const std::optional<int64_t> stride = stride_of_positions(tensor, 2);
  if (!stride) return std::nullopt;
  return std::array<int64_t, 3>{tensor.strides()[0], tensor.strides()[1], *stride};
}

// Such a tensor; one whose positions lie otherwise is copied.
struct ChannelTensor {
  Tensor tensor;
  int64_t batch, channels, positions = 1;
  std::array<int64_t, 3> strides;

  explicit ChannelTensor(const Tensor& any) : tensor(any) {
    const Sizes sizes = any.sizes();
    batch = sizes[0], channels = sizes[1];
    for (size_t d = 2; d < sizes.size(); ++d) positions *= sizes[d];
    if (!strides_of_channels(tensor)) tensor = torch::stable::contiguous(any);
    strides = *strides_of_channels(tensor);
  }

  bool channels_innermost() const { return strides[1] == 1 && strides[2] != 1; }

  template <class T>
  View<const T, 3> view() const {
    return {tensor.const_data_ptr<T>(), {strides[0], strides[1], strides[2]}};
  }
  // Of a result, which is dense and therefore no copy.
  template <class T>
  View<T, 3> mutable_view() const {
    return {tensor.mutable_data_ptr<T>(), {strides[0], strides[1], strides[2]}};
  }
};

}  // namespace handgrad
