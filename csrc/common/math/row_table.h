// A table of vectors in memory of any strides and dtype, one vector a row: a tensor of two dimensions, or one of three
// whose first two count rows together.
#pragma once

#include "math/stored.h"

namespace handgrad {

template <class P>
struct RowTable {
  Stored<P> first;
  int64_t outer_stride = 0, inner_stride = 0, stride = 0;
  int64_t inner = 1;  // rows that share an index of the outer dimension
  int64_t width = 0;

  HANDGRAD_MATH Stored<P> row(int64_t index) const {
    return first + (inner == 1 ? index * outer_stride : index / inner * outer_stride + index % inner * inner_stride);
  }
  HANDGRAD_MATH explicit operator bool() const { return first.data != nullptr; }
};

namespace detail {

template <class P>
RowTable<P> row_table_at(Stored<P> first, const Tensor& tensor) {
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  const bool three = sizes.size() == 3;
  return {
      first, strides[0], three ? strides[1] : 0, strides[three ? 2 : 1], three ? sizes[1] : 1, sizes[three ? 2 : 1]};
}

}  // namespace detail

template <class C>
RowTable<const C> row_table(const Tensor& tensor) {
  return detail::row_table_at<const C>(
      {static_cast<const unsigned char*>(tensor.const_data_ptr()), tensor.scalar_type()}, tensor);
}
template <class C>
RowTable<const C> row_table(const std::optional<Tensor>& tensor) {
  return tensor ? row_table<C>(*tensor) : RowTable<const C>{};
}
template <class C>
RowTable<C> mutable_row_table(const Tensor& tensor) {
  return detail::row_table_at<C>({static_cast<unsigned char*>(tensor.mutable_data_ptr()), tensor.scalar_type()},
                                 tensor);
}

}  // namespace handgrad
