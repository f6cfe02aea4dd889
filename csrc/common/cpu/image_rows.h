// Rows of images on the CPU, where they are in memory: of levels or of floating-point numbers, of any strides.
//
// Images whose pixels lie densely with channels innermost are rows of `group` numbers a pixel; of all others each
// channel is an image of its own, of a group of 1.
#pragma once

#include <cstdint>

#include "abi/dtype.h"
#include "abi/macros.h"
#include "abi/tensor.h"

namespace handgrad {

template <class Byte>
struct ImageRows {
  Byte* data = nullptr;
  ScalarType dtype = ScalarType::Float;
  int64_t batch = 0, channel = 0, row = 0, column = 0;  // strides

  ImageRows() = default;
  ImageRows(Byte* data, const Tensor& tensor)
      : data(data),
        dtype(tensor.scalar_type()),
        batch(tensor.strides()[0]),
        channel(tensor.strides()[1]),
        row(tensor.strides()[2]),
        column(tensor.strides()[3]) {}

  explicit operator bool() const { return data; }
  int64_t at(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return n * batch + c * channel + y * row + x * column;
  }
  // Between neighbours in a row of groups.
  int64_t stride(int64_t group) const { return group > 1 ? 1 : column; }
};
using SourceRows = ImageRows<const unsigned char>;
using TargetRows = ImageRows<unsigned char>;

inline SourceRows source_rows(const Tensor* tensor) {
  return tensor ? SourceRows(static_cast<const unsigned char*>(tensor->const_data_ptr()), *tensor) : SourceRows();
}
inline TargetRows target_rows(const Tensor* tensor) {
  return tensor ? TargetRows(static_cast<unsigned char*>(tensor->mutable_data_ptr()), *tensor) : TargetRows();
}
inline bool has_groups(const Tensor* tensor) {
  return !tensor || (tensor->strides()[1] == 1 && tensor->strides()[3] == tensor->sizes()[1]);
}

// In an order that depends on `count` alone.
template <class C>
[[gnu::noinline]] double sum_of_products(const C* one, const C* other, int64_t count) {
  constexpr int kLanes = 8;
  double total[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    HANDGRAD_SIMD
    for (int lane = 0; lane < kLanes; ++lane) {
      total[lane] += static_cast<double>(one[i + lane]) * static_cast<double>(other[i + lane]);
    }
  }
  for (; i < count; ++i) total[0] += static_cast<double>(one[i]) * static_cast<double>(other[i]);
  double all = 0;
  for (const double lane : total) all += lane;
  return all;
}

}  // namespace handgrad
