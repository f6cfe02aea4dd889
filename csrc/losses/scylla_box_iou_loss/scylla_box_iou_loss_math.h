// SIoU loss of one pair of boxes, with its derivatives. Derivation: docs/losses/scylla_box_iou_loss.md.
//
//   L = 1 - IoU + (Delta + Omega) / 2
//   Delta = sum over both axes of 1 - exp(-(2 - Lambda) rho),       rho = d^2 / (w^2 + eps)
//   Omega = sum over both axes of (1 - exp(-omega))^4,              omega = |w1 - w2| / (max(w1, w2) + eps)
//   Lambda = 2 |d_x d_y| / (d_x^2 + d_y^2 + eps), the sine of twice the angle between the centres
//
// with the distance d of the centres and the extent w of the enclosing box.
#pragma once

#include <tuple>

#include "math/angle.h"
#include "math/box_pairs.h"

namespace handgrad {

template <class T>
struct ScyllaBoxIoULoss {
  IoULoss<T> iou;

  explicit ScyllaBoxIoULoss(double eps) : iou{static_cast<T>(eps)} {}

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const {
    const Angle<T> angle(x, y, iou.by.eps);
    const T shape_x = Shape<T>(x, iou.by.eps).grown, shape_y = Shape<T>(y, iou.by.eps).grown;
    const T distance = 2 - Approach<T>(x, angle, iou.by.eps).left - Approach<T>(y, angle, iou.by.eps).left;
    const T x2 = shape_x * shape_x, y2 = shape_y * shape_y;
    return iou.value(Overlap<T>(x, y)) + T(0.5) * (distance + x2 * x2 + y2 * y2);
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    const Angle<N> angle(x, y, iou.by.eps);
    const Approach<N> to_x(x, angle, iou.by.eps), to_y(y, angle, iou.by.eps);
    // Delta's derivative with respect to Lambda; L has half of each.
    const N by_angle = -(to_x.left * to_x.rho + to_y.left * to_y.rho);
    const AxisSlope<N> of_x = along(x, to_x, angle, by_angle * angle.by_distance(x.distance, y.distance)),
                       of_y = along(y, to_y, angle, by_angle * angle.by_distance(y.distance, x.distance));
    return iou.slope(x, y, Overlap<N>(x, y)) + BoxPairSlope<N>{of_x, of_y};
  }

 private:
  template <class N>
  struct Angle {
    T sign;  // of d_x d_y
    N inverse, sine, gamma;

    HANDGRAD_MATH Angle(const AxisPair<N>& x, const AxisPair<N>& y, T eps)
        : sign(sign_of(value_of(x.distance)) * sign_of(value_of(y.distance))),
          inverse(inverse_or_zero(x.distance * x.distance + y.distance * y.distance + eps)),
          sine(2 * sign * x.distance * y.distance * inverse),
          gamma(2 - sine) {}

    // Lambda's derivative with respect to the distance along an axis.
    HANDGRAD_MATH N by_distance(N along, N across) const { return T(2) * (sign * across - sine * along) * inverse; }
  };

  template <class N>
  struct Approach {
    N by_square, rho, left;  // left: exp(-gamma rho)

    HANDGRAD_MATH Approach(const AxisPair<N>& axis, const Angle<N>& angle, T eps)
        : by_square(1 / (axis.enclosing * axis.enclosing + eps)),
          rho(axis.distance * axis.distance * by_square),
          left(exp(-angle.gamma * rho)) {}
  };

  template <class N>
  struct Shape {
    T side;         // the sign of w1 - w2
    bool positive;  // max(w1, w2) > 0; where it is not, 0 takes its place
    N inverse, omega, grown;

    HANDGRAD_MATH Shape(const AxisPair<N>& axis, T eps)
        : side(sign_of(value_of(axis.first) - value_of(axis.second))),
          positive((value_of(axis.first) > 0) | (value_of(axis.second) > 0)),
          inverse(inverse_or_zero(select(positive, larger(axis.first, axis.second), N(0)) + eps)),
          omega(side * (axis.first - axis.second) * inverse),
          grown(1 - exp(-omega)) {}
  };

  // `turned` is Delta's derivative with respect to the distance by way of Lambda.
  template <class N>
  HANDGRAD_MATH AxisSlope<N> along(const AxisPair<N>& axis, const Approach<N>& to, const Angle<N>& angle,
                                   N turned) const {
    const Shape<N> shape(axis, iou.by.eps);
    // Half of Omega's derivative with respect to omega; that of omega is (side - omega part) / max, part being what
    // each has in the maximum.
    const N by_omega = T(2) * shape.grown * shape.grown * shape.grown * (1 - shape.grown) * shape.inverse;
    const T part = preference(axis.first, axis.second), part1 = shape.positive ? part : T(0),
            part2 = shape.positive ? 1 - part : T(0);
    const N by_rho = to.left * angle.gamma * to.by_square;
    return {by_omega * (shape.side - shape.omega * part1), -by_omega * (shape.side + shape.omega * part2), N(0),
            -by_rho * to.rho * axis.enclosing, by_rho * axis.distance + T(0.5) * turned};
  }

  static HANDGRAD_MATH T sign_of(T x) {
    const T above = x > 0 ? T(1) : T(0);
    return x < 0 ? T(-1) : above;
  }
};

// For the kind: kinds/box_loss.h.
struct ScyllaBoxIoULossOp {
  static constexpr const char* name = "scylla_box_iou_loss";
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<ScyllaBoxIoULoss<T>>;
};

}  // namespace handgrad
