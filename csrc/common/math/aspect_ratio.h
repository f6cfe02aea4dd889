// How much the aspect ratios of a pair of boxes differ, as complete IoU has it:
//
//   alpha v      v = 4 / pi^2 (atan(w2 / h2) - atan(w1 / h1))^2      alpha = v / (1 - IoU + v + eps)
//
// alpha is a number: it is not differentiated. A box without extent has no aspect ratio: v = 0.
#pragma once

#include "math/angle.h"
#include "math/box_pairs.h"

namespace handgrad {

template <class T>
struct AspectRatio {
  static constexpr T kScale = static_cast<T>(0.40528473456935108578);  // 4 / pi^2
  T eps;                                                               // alpha's

  // `without` is 1 - IoU.
  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y, T without) const {
    const T turn = turned(x, y), v = kScale * turn * turn;
    return weight(v, without) * v;
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y, Plain<N> without) const {
    const N turn = turned(x, y);
    // Of the number alpha the derivative is 0, in second derivatives too.
    const T alpha = weight(kScale * value_of(turn) * value_of(turn), without);
    // atan(w / h) has the derivatives h / (w^2 + h^2) and -w / (w^2 + h^2).
    const N by_angle = 2 * kScale * alpha * turn;
    const N first = by_angle * inverse_or_zero(x.first * x.first + y.first * y.first),
            second = by_angle * inverse_or_zero(x.second * x.second + y.second * y.second);
    return {{-first * y.first, second * y.second, N(0), N(0), N(0)},
            {first * x.first, -second * x.second, N(0), N(0), N(0)}};
  }

 private:
  HANDGRAD_MATH T weight(T v, T without) const { return v > 0 ? v / (without + v + eps) : T(0); }

  // From one aspect ratio to the other, as angles.
  template <class N>
  static HANDGRAD_MATH N turned(const AxisPair<N>& x, const AxisPair<N>& y) {
    const bool point1 = (value_of(x.first) == 0) & (value_of(y.first) == 0),
               point2 = (value_of(x.second) == 0) & (value_of(y.second) == 0);
    return select(point1 | point2, N(0), atan_of_ratio(x.second, y.second) - atan_of_ratio(x.first, y.first));
  }
};

}  // namespace handgrad
