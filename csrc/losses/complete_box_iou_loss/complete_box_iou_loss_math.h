// Complete IoU loss of one pair of boxes, with its derivatives. Derivation: docs/losses/complete_box_iou_loss.md.
//
//   L = 1 - IoU + (d_x^2 + d_y^2) / (w^2 + h^2 + eps) + alpha v
//   v = 4 / pi^2 (atan(w2 / h2) - atan(w1 / h1))^2      alpha = v / (1 - IoU + v + eps), which is not differentiated
//
// A box without extent has no aspect ratio: v = 0.
#pragma once

#include <tuple>

#include "math/angle.h"
#include "math/box_pairs.h"

namespace handgrad {

template <class T>
struct CompleteBoxIoULoss {
  static constexpr T kScale = static_cast<T>(0.40528473456935108578);  // 4 / pi^2
  // As torchvision has it, eps is alpha's alone.
  IoULoss<T> iou{static_cast<T>(1e-7)};
  CentreDistance<T> distance{static_cast<T>(1e-7)};
  T eps;

  explicit CompleteBoxIoULoss(double eps_value) : eps(static_cast<T>(eps_value)) {}

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const {
    const T without = iou.value(Overlap<T>(x, y)), turn = turned(x, y), v = kScale * turn * turn;
    return without + distance.value(x, y) + weight(v, without) * v;
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    const Overlap<N> overlap(x, y);
    const N turn = turned(x, y);
    // Numbers of which the derivative is 0, in second derivatives too.
    const T without = 1 - value_of(overlap.intersection) / (value_of(overlap.united) + iou.eps);
    const T alpha = weight(kScale * value_of(turn) * value_of(turn), without);
    // atan(w / h) has the derivatives h / (w^2 + h^2) and -w / (w^2 + h^2).
    const N by_angle = 2 * kScale * alpha * turn;
    const N first = by_angle * inverse_or_zero(x.first * x.first + y.first * y.first),
            second = by_angle * inverse_or_zero(x.second * x.second + y.second * y.second);
    const BoxPairSlope<N> aspect{{-first * y.first, second * y.second, N(0), N(0), N(0)},
                                 {first * x.first, -second * x.second, N(0), N(0), N(0)}};
    return iou.slope(x, y, overlap) + distance.slope(x, y) + aspect;
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

// For the kind: kinds/box_loss.h.
struct CompleteBoxIoULossOp {
  static constexpr const char* name = "complete_box_iou_loss";
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<CompleteBoxIoULoss<T>>;
};

}  // namespace handgrad
