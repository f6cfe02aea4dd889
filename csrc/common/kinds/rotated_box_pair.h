// What box_pair.h has, of one pair of rotated boxes.
//
// A formula is one of areas (math/rotated_boxes.h), and kHull says whether that of the convex hull is among them; or,
// where it has no kHull, of the frame of both. value(areas) is the result and slope(areas) are the derivatives with
// respect to them, of any type of number. It is computed in double, whatever the boxes' type.
#pragma once

#include "cpu/pair_operands.h"
#include "math/rotated_boxes.h"

namespace handgrad::rotated_box_pair {

template <class To, class From>
HANDGRAD_MATH RotatedBox<To> converted(const RotatedBox<From>& box, To factor = 1) {
  return {factor * static_cast<To>(box.x), factor * static_cast<To>(box.y), factor * static_cast<To>(box.width),
          factor * static_cast<To>(box.height), factor * static_cast<To>(box.angle)};
}

template <class Formula>
concept OfAreas = requires { Formula::kHull; };

template <class Formula>
HANDGRAD_MATH double value_of_pair(const Formula& formula, const RotatedPair<double>& pair) {
  if constexpr (OfAreas<Formula>) {
    return formula.value(pair.template areas<Formula::kHull>());
  } else {
    return formula.value(pair.frame()) + pair.nothing();
  }
}

template <class Formula, class N>
HANDGRAD_MATH RotatedPairGradient<N> gradient_of_pair(const Formula& formula, const RotatedPair<N>& pair) {
  if constexpr (OfAreas<Formula>) {
    constexpr bool kHull = Formula::kHull;
    return pair.template gradient<kHull>(formula.slope(pair.template areas<kHull>()));
  } else {
    return pair.gradient(formula.slope(pair.frame()));
  }
}

template <class C, class Formula>
struct Value {
  using Row = RotatedBox<C>;
  static constexpr unsigned kReads = bit(kBoxes1) | bit(kBoxes2), kWrites = bit(kLoss);
  Formula formula;
  HANDGRAD_MATH PairResults<C, Row> operator()(const PairInputs<C, Row>& in) const {
    const RotatedPair<double> pair(converted<double>(in.boxes1), converted<double>(in.boxes2));
    PairResults<C, Row> out{};
    out.loss = static_cast<C>(value_of_pair(formula, pair));
    return out;
  }
};

template <class C, class Formula, bool OfBoth>
struct Gradient {
  using Row = RotatedBox<C>;
  static constexpr unsigned kReads = bit(kBoxes1) | bit(kBoxes2) | bit(kGradOutput),
                            kWrites = bit(kGrad1) | (OfBoth ? bit(kGrad2) : 0);
  Formula formula;
  HANDGRAD_MATH PairResults<C, Row> operator()(const PairInputs<C, Row>& in) const {
    const RotatedPair<double> pair(converted<double>(in.boxes1), converted<double>(in.boxes2));
    const auto gradient = gradient_of_pair(formula, pair);
    const double factor = static_cast<double>(in.grad_output);
    PairResults<C, Row> out{};
    out.grad1 = scaled(gradient.first, factor);
    out.grad2 = scaled(gradient.second, factor);
    return out;
  }

 private:
  static HANDGRAD_MATH Row scaled(const RotatedBox<double>& box, double factor) {
    return {static_cast<C>(factor * box.x), static_cast<C>(factor * box.y), static_cast<C>(factor * box.width),
            static_cast<C>(factor * box.height), static_cast<C>(factor * box.angle)};
  }
};

// The gradient along a direction, and the Hessian times it: the gradient of dual numbers, whose tangents are the
// direction.
template <class C, class Formula>
struct SecondGradient {
  using Row = RotatedBox<C>;
  static constexpr unsigned kReads = Gradient<C, Formula, true>::kReads | bit(kDirection1) | bit(kDirection2),
                            kWrites = bit(kLoss) | bit(kGrad1) | bit(kGrad2);
  Formula formula;
  HANDGRAD_MATH PairResults<C, Row> operator()(const PairInputs<C, Row>& in) const {
    const RotatedPair<Dual<double>> pair(along(in.boxes1, in.direction1), along(in.boxes2, in.direction2));
    const auto gradient = gradient_of_pair(formula, pair);
    const double factor = static_cast<double>(in.grad_output);
    return {static_cast<C>(dot(gradient.first, in.direction1) + dot(gradient.second, in.direction2)),
            tangents(gradient.first, factor), tangents(gradient.second, factor)};
  }

 private:
  static HANDGRAD_MATH Dual<double> along(C value, C direction) {
    return {static_cast<double>(value), static_cast<double>(direction)};
  }
  static HANDGRAD_MATH RotatedBox<Dual<double>> along(const Row& box, const Row& direction) {
    return {along(box.x, direction.x), along(box.y, direction.y), along(box.width, direction.width),
            along(box.height, direction.height), along(box.angle, direction.angle)};
  }
  static HANDGRAD_MATH double dot(const RotatedBox<Dual<double>>& box, const Row& direction) {
    return box.x.value * static_cast<double>(direction.x) + box.y.value * static_cast<double>(direction.y) +
           box.width.value * static_cast<double>(direction.width) +
           box.height.value * static_cast<double>(direction.height) +
           box.angle.value * static_cast<double>(direction.angle);
  }
  static HANDGRAD_MATH Row tangents(const RotatedBox<Dual<double>>& box, double factor) {
    return {static_cast<C>(factor * box.x.tangent), static_cast<C>(factor * box.y.tangent),
            static_cast<C>(factor * box.width.tangent), static_cast<C>(factor * box.height.tangent),
            static_cast<C>(factor * box.angle.tangent)};
  }
};

}  // namespace handgrad::rotated_box_pair

namespace handgrad {

// For the kinds, box_loss.h and box_matrix.h.
struct RotatedBoxes {
  static constexpr int64_t kColumns = 5;
  static constexpr const char* kRow = "a row for cx, cy, w, h, angle";
  // The pass over a pair is nearly all of the work.
  static constexpr bool kOneGradient = false, kOfLosses = false;
  template <class C, class Formula>
  using Value = rotated_box_pair::Value<C, Formula>;
  template <class C, class Formula, bool OfBoth>
  using Gradient = rotated_box_pair::Gradient<C, Formula, OfBoth>;
  template <class C, class Formula>
  using SecondGradient = rotated_box_pair::SecondGradient<C, Formula>;
};

}  // namespace handgrad
