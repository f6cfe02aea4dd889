// A tensor as kernels see it, on host and device: a pointer and strides, whatever they are.
#pragma once

#include "abi/macros.h"
#include "abi/tensor.h"

namespace handgrad {

// Element (i, j, …) of a tensor of Rank dimensions. A view without data stands for a tensor that is None, or for a
// result that nobody asked for.
template <class T, int Rank>
struct View {
  T* data = nullptr;
  int64_t strides[Rank] = {};

  template <class... Index>
  HANDGRAD_MATH T* at(Index... index) const {
    static_assert(sizeof...(Index) == Rank);
    T* element = data;
    int d = 0;
    ((element += static_cast<int64_t>(index) * strides[d++]), ...);
    return element;
  }
  HANDGRAD_MATH explicit operator bool() const { return data != nullptr; }
};

namespace detail {

template <class T, int Rank>
View<T, Rank> view_at(T* data, const Tensor& tensor) {
  View<T, Rank> view{data, {}};
  const Sizes strides = tensor.strides();
  for (int d = 0; d < Rank; ++d) view.strides[d] = strides[static_cast<size_t>(d)];
  return view;
}

}  // namespace detail

template <class T, int Rank>
View<const T, Rank> view(const Tensor& tensor) {
  return detail::view_at<const T, Rank>(tensor.const_data_ptr<T>(), tensor);
}
template <class T, int Rank>
View<const T, Rank> view(const std::optional<Tensor>& tensor) {
  return tensor ? view<T, Rank>(*tensor) : View<const T, Rank>{};
}
template <class T, int Rank>
View<T, Rank> mutable_view(const Tensor& tensor) {
  return detail::view_at<T, Rank>(tensor.mutable_data_ptr<T>(), tensor);
}
// Of a result that may not be asked for.
template <class T, int Rank>
View<T, Rank> mutable_view_if(bool wanted, const Tensor& tensor) {
  return wanted ? mutable_view<T, Rank>(tensor) : View<T, Rank>{};
}

}  // namespace handgrad
