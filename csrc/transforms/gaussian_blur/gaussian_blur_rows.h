// Rows of numbers on the CPU: the one sum that every filter is made of, and rows between memory and the type they are
// computed in.
//
// Weights are even, so a sum is of pairs: weight * (row + other row). Along a row the pair is the row itself, moved to
// either side; across rows it is the rows above and below; the middle one has zeros for its other. Nothing here is
// fused, so that levels are the same on every processor and device.
#pragma once

#include "cpu/planes.h"
#include "cpu/scratch.h"
#include "gaussian_blur_host.h"
#include "math/convert.h"

namespace handgrad::gaussian_blur {

template <class C>
struct Pair {
  const C *one, *other;
  C weight;
};

// What rows may be read and written beyond their ends, so that no run of sums need be cut short.
template <class C>
inline constexpr int64_t kShort = 64 / static_cast<int64_t>(sizeof(C));

template <int64_t Lanes, class C>
HANDGRAD_MATH void add_pair(const Pair<C>& pair, int64_t from, C (&total)[Lanes]) {
  const C *const one = pair.one + from, *const other = pair.other + from;
  HANDGRAD_SIMD
  for (int64_t lane = 0; lane < Lanes; ++lane) total[lane] += pair.weight * (one[lane] + other[lane]);
}

template <int64_t Lanes, class C>
HANDGRAD_MATH void sum_run(const Pair<C>* pairs, int64_t count, int64_t from, C* __restrict to) {
  C total[Lanes] = {};
  for (int64_t k = 0; k < count; ++k) add_pair(pairs[k], from, total);
  HANDGRAD_SIMD
  for (int64_t lane = 0; lane < Lanes; ++lane) to[from + lane] = total[lane];
}

// to[i] = the sum over pairs. Compiled apart, or the compiler forgets that the sums can be held in registers.
template <class C>
[[gnu::noinline]] void sum_pairs(const Pair<C>* pairs, int64_t count, int64_t length, C* __restrict to) {
  constexpr int64_t kLong = 4 * kShort<C>;
  int64_t i = 0;
  for (; i + kLong <= length; i += kLong) sum_run<kLong>(pairs, count, i, to);
  for (; i < length; i += kShort<C>) sum_run<kShort<C>>(pairs, count, i, to);
}

[[gnu::noinline]] inline void store_levels(const float* __restrict from, int64_t count, uint8_t* __restrict to,
                                           int64_t stride) {
  if (stride == 1) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) to[i] = level_of(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * stride] = level_of(from[i]);
  }
}

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

// Images whose pixels lie densely with channels innermost are rows of `group` numbers a pixel; of all others each
// channel is an image of its own, of a group of 1.
template <class Byte>
struct Rows {
  Byte* data = nullptr;
  ScalarType dtype = ScalarType::Float;
  int64_t batch = 0, channel = 0, row = 0, column = 0;  // strides

  Rows() = default;
  Rows(Byte* data, const Tensor& tensor)
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
using SourceRows = Rows<const unsigned char>;
using TargetRows = Rows<unsigned char>;

inline SourceRows source_rows(const Tensor* tensor) {
  return tensor ? SourceRows(static_cast<const unsigned char*>(tensor->const_data_ptr()), *tensor) : SourceRows();
}
inline TargetRows target_rows(const Tensor* tensor) {
  return tensor ? TargetRows(static_cast<unsigned char*>(tensor->mutable_data_ptr()), *tensor) : TargetRows();
}
inline bool has_groups(const Tensor* tensor) {
  return !tensor || (tensor->strides()[1] == 1 && tensor->strides()[3] == tensor->sizes()[1]);
}

template <class C>
void load_row(const SourceRows& rows, int64_t at, int64_t stride, int64_t count, C* to) {
  if constexpr (std::is_same_v<C, float>) {
    if (rows.dtype == ScalarType::Byte) return widen_run(rows.data + at, stride, count, to);
  }
  load_run(rows.dtype, rows.data, at, stride, count, to);
}
template <class C>
void store_row(const C* from, int64_t count, const TargetRows& rows, int64_t at, int64_t stride) {
  if constexpr (std::is_same_v<C, float>) {
    if (rows.dtype == ScalarType::Byte) return store_levels(from, count, rows.data + at, stride);
  }
  store_run(rows.dtype, from, count, rows.data, at, stride);
}

}  // namespace handgrad::gaussian_blur
