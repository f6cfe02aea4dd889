// The taps of filters that were given as tensors, for math/fir.h.
#pragma once

#include "abi/tensor.h"
#include "math/fir.h"

namespace handgrad {

// Samples of an axis with zeros inserted and around it, and the steps of rates, are fewer; taps are no more.
inline constexpr int64_t kMostFirSamples = int64_t{1} << 30, kMostFirTaps = 1024;

// A filter (rows, columns), or one of `columns` taps for both axes, f_i f_j; and, where there is a direction of it, the
// derivative along that: v_ij, or v_i f_j + f_i v_j.
template <class C>
struct FirFilter {
  const C *taps, *direction;
  int64_t strides[2], direction_strides[2];  // of rows and columns; of columns alone if it is a product
  int32_t rows, columns;
  bool is_product;
  double gain;

  HANDGRAD_MATH bool is_separable() const { return is_product && !direction; }
  HANDGRAD_MATH C tap(int32_t j) const { return taps[j * strides[1]]; }
  // Of two passes, one of which has the gain.
  HANDGRAD_MATH C of_row(int32_t i) const { return static_cast<C>(gain * static_cast<double>(tap(i))); }
  HANDGRAD_MATH C of_column(int32_t j) const { return tap(j); }
  // Of one pass.
  HANDGRAD_MATH C of_both(int32_t i, int32_t j) const {
    double value = 0;
    if (is_product && direction) {
      value = static_cast<double>(along(i)) * static_cast<double>(tap(j)) +
              static_cast<double>(tap(i)) * static_cast<double>(along(j));
    } else if (is_product) {
      value = static_cast<double>(tap(i)) * static_cast<double>(tap(j));
    } else if (direction) {
      value = static_cast<double>(direction[i * direction_strides[0] + j * direction_strides[1]]);
    } else {
      value = static_cast<double>(taps[i * strides[0] + j * strides[1]]);
    }
    return static_cast<C>(gain * value);
  }
  HANDGRAD_MATH C along(int32_t j) const { return direction[j * direction_strides[1]]; }
};

template <class C>
FirFilter<C> fir_filter(const Tensor& filter, const Tensor* direction, double gain) {
  const auto set_strides = [](const Tensor& of, int64_t(&strides)[2]) {
    const Sizes given = of.strides();
    strides[0] = given.size() == 2 ? given[0] : 0, strides[1] = given[given.size() - 1];
  };
  const Sizes sizes = filter.sizes();
  FirFilter<C> made{filter.const_data_ptr<C>(),
                    direction ? direction->const_data_ptr<C>() : nullptr,
                    {},
                    {},
                    static_cast<int32_t>(sizes[0]),
                    static_cast<int32_t>(sizes[sizes.size() - 1]),
                    sizes.size() == 1,
                    gain};
  set_strides(filter, made.strides);
  if (direction) set_strides(*direction, made.direction_strides);
  return made;
}

}  // namespace handgrad
