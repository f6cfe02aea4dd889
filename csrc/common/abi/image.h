// Images, tensors of (batch, channels, height, width), in either of their two layouts.
#pragma once

#include "abi/check.h"
#include "abi/macros.h"

namespace handgrad {

// A tensor of four dimensions: element (n, c, y, x) is n * strides[0] + c * strides[1] + …
template <class T>
struct Field {
  T* data;
  int64_t strides[4];

  HANDGRAD_MATH T* at(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return data + n * strides[0] + c * strides[1] + y * strides[2] + x * strides[3];
  }
};

template <class T>
Field<const T> field(const Tensor& tensor) {
  const Sizes s = tensor.strides();
  return {tensor.const_data_ptr<T>(), {s[0], s[1], s[2], s[3]}};
}
template <class T>
Field<T> mutable_field(const Tensor& tensor) {
  const Sizes s = tensor.strides();
  return {tensor.mutable_data_ptr<T>(), {s[0], s[1], s[2], s[3]}};
}

inline bool is_channels_last(const Tensor& tensor) {
  const Sizes n = tensor.sizes(), s = tensor.strides();
  const int64_t steps[4] = {n[1] * n[2] * n[3], 1, n[1] * n[3], n[1]};
  for (size_t d = 0; d < 4; ++d) {
    if (n[d] != 1 && s[d] != steps[d]) return false;
  }
  return true;
}

inline Tensor empty_image(Sizes sizes, bool channels_last, const Tensor& like) {
  if (!channels_last) {
    const std::vector<int64_t> strides = contiguous_strides(sizes);
    return empty_strided(sizes, Sizes(strides.data(), strides.size()), like);
  }
  const int64_t strides[4] = {sizes[1] * sizes[2] * sizes[3], 1, sizes[1] * sizes[3], sizes[1]};
  return empty_strided(sizes, Sizes(strides, 4), like);
}

// channels_last in, channels_last out; everything else comes out contiguous.
inline Tensor empty_gradient(const Tensor& tensor) {
  return empty_image(tensor.sizes(), !tensor.is_contiguous() && is_channels_last(tensor), tensor);
}

}  // namespace handgrad
