// atan(a / b), of plain numbers and of dual ones (dual.h), as a loop can be vectorised over it; on devices the same
// arithmetic, which is shorter than CUDA's atan2.
#pragma once

#include "math/dual.h"

namespace handgrad {
namespace detail {

// atan(t) / t in powers of t^2 for |t| <= tan(pi / 8), by tools/fit_polynomials.py.
template <class T>
struct AtanSeries {
  static constexpr T values[] = {1.0,
                                 -0.333333333333333241,
                                 0.1999999999999698366,
                                 -0.1428571428532620101,
                                 0.1111111108511275064,
                                 -0.09090908051683605957,
                                 0.07692280936984261585,
                                 -0.06666202887746199102,
                                 0.05876811026121021779,
                                 -0.05217165899595299625,
                                 0.04498908246781450605,
                                 -0.03337410224289961712,
                                 0.01509988486482196399};
};
template <>
struct AtanSeries<float> {
  static constexpr float values[] = {0.9999999994f,  -0.3333330677f, 0.1999817647f,
                                     -0.1423941086f, 0.1056892078f,  -0.06023963178f};
};

}  // namespace detail

// 1 / x for x > 0, and 0 where there is nothing to divide by.
template <class N>
HANDGRAD_MATH N inverse_or_zero(N x) {
  return select(value_of(x) > 0, 1 / x, N(0));
}

// atan(a / b): pi / 2 where only b is 0, with a's sign, and 0 where both are. Accurate to 3 units in the last place.
template <class T>
HANDGRAD_MATH T atan_of_ratio(T a, T b) {
  constexpr T tan_eighth = static_cast<T>(0.41421356237309504880);
  constexpr T quarter = static_cast<T>(0.78539816339744830962), half = static_cast<T>(1.57079632679489661923);
  const T size_a = absolute(a), size_b = absolute(b);
  const T low = size_a < size_b ? size_a : size_b, high = size_a < size_b ? size_b : size_a;
  // atan(t) = pi / 4 + atan((t - 1) / (t + 1)), which one division does.
  const bool near_one = low > tan_eighth * high;
  const T above = near_one ? low - high : low, below = near_one ? low + high : high;
  const T t = above / below;
  const T small = t * detail::polynomial<detail::AtanSeries<T> >(t * t) + (near_one ? quarter : T(0));
  const T of_sizes = size_a > size_b ? half - small : small;
  const T finite = high == 0 ? T(0) : of_sizes;
  return (a < 0) != (b < 0) ? -finite : finite;
}
template <class T>
HANDGRAD_MATH Dual<T> atan_of_ratio(Dual<T> a, Dual<T> b) {
  return {atan_of_ratio(a.value, b.value),
          (b.value * a.tangent - a.value * b.tangent) * inverse_or_zero(a.value * a.value + b.value * b.value)};
}

}  // namespace handgrad
