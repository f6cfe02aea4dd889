// Tensors whose type in memory is known at run time only: what reads and writes them through this exists once for each
// type that is computed in, not for each type of element.
#pragma once

#include <type_traits>

#include "abi/channels.h"
#include "abi/view.h"
#include "math/convert.h"

namespace handgrad {

// An element of memory, and those beyond it. P is `const C` for what is read and C for what is written; elements are of
// a dtype that is computed in C.
template <class P>
struct Stored {
  using C = std::remove_const_t<P>;
  using Byte = std::conditional_t<std::is_const_v<P>, const unsigned char, unsigned char>;

  Byte* data = nullptr;
  ScalarType dtype = kDtype<C>;

  HANDGRAD_MATH Stored operator+(int64_t elements) const {
    const int64_t size = is_computed_in() ? static_cast<int64_t>(sizeof(C)) : 2;
    return {data + elements * size, dtype};
  }
  HANDGRAD_MATH Stored& operator+=(int64_t elements) { return *this = *this + elements; }
  // Memory of C itself; anything else is of a half type.
  HANDGRAD_MATH bool is_computed_in() const { return dtype == kDtype<C>; }
  P* in_place() const { return reinterpret_cast<P*>(data); }
  // Memory of T, which dispatch_storage has found to be its type.
  template <class T>
  HANDGRAD_MATH auto* as() const {
    return reinterpret_cast<std::conditional_t<std::is_const_v<P>, const T, T>*>(data);
  }
};

template <class C>
void load_run(const Stored<const C>& from, int64_t stride, int64_t count, C* to) {
  load_run(from.dtype, from.data, 0, stride, count, to);
}
template <class C>
void store_run(const C* from, int64_t count, const Stored<C>& to, int64_t stride) {
  store_run(to.dtype, from, count, to.data, 0, stride);
}

// Element (i, j, …) of a tensor, as View has it.
template <class P, int Rank>
struct StoredView {
  Stored<P> first;
  int64_t strides[Rank] = {};

  template <class... Index>
  HANDGRAD_MATH Stored<P> at(Index... index) const {
    static_assert(sizeof...(Index) == Rank);
    int64_t offset = 0;
    int d = 0;
    ((offset += static_cast<int64_t>(index) * strides[d++]), ...);
    return first + offset;
  }
  HANDGRAD_MATH explicit operator bool() const { return first.data != nullptr; }
};

namespace detail {

template <class P, int Rank>
StoredView<P, Rank> stored_view_at(typename Stored<P>::Byte* data, const Tensor& tensor) {
  StoredView<P, Rank> view{{data, tensor.scalar_type()}, {}};
  const Sizes strides = tensor.strides();
  for (int d = 0; d < Rank; ++d) view.strides[d] = strides[static_cast<size_t>(d)];
  return view;
}

}  // namespace detail

template <class C, int Rank>
StoredView<const C, Rank> stored_view(const Tensor& tensor) {
  return detail::stored_view_at<const C, Rank>(static_cast<const unsigned char*>(tensor.const_data_ptr()), tensor);
}
template <class C, int Rank>
StoredView<const C, Rank> stored_view(const std::optional<Tensor>& tensor) {
  return tensor ? stored_view<C, Rank>(*tensor) : StoredView<const C, Rank>{};
}
template <class C, int Rank>
StoredView<C, Rank> mutable_stored_view(const Tensor& tensor) {
  return detail::stored_view_at<C, Rank>(static_cast<unsigned char*>(tensor.mutable_data_ptr()), tensor);
}
template <class C, int Rank>
StoredView<C, Rank> mutable_stored_view_if(bool wanted, const Tensor& tensor) {
  return wanted ? mutable_stored_view<C, Rank>(tensor) : StoredView<C, Rank>{};
}

// Of a ChannelTensor.
template <class C>
StoredView<const C, 3> stored_view(const ChannelTensor& of) {
  const Tensor& tensor = of.tensor;
  return {{static_cast<const unsigned char*>(tensor.const_data_ptr()), tensor.scalar_type()},
          {of.strides[0], of.strides[1], of.strides[2]}};
}
template <class C>
StoredView<C, 3> mutable_stored_view(const ChannelTensor& of) {
  const Tensor& tensor = of.tensor;
  return {{static_cast<unsigned char*>(tensor.mutable_data_ptr()), tensor.scalar_type()},
          {of.strides[0], of.strides[1], of.strides[2]}};
}

}  // namespace handgrad
