// What is computed of one pair of boxes, from a formula of it: bodies for the loops over pairs, one by one
// (cpu/pair_operands.h) or all of two tables (cpu/matrix_operands.h).
//
// A formula is made from the extents and distances along both axes (math/box_pairs.h), and has value(x, y) and slope(x,
// y), the derivatives with respect to them. slope is a template over the type of number: of dual numbers it gives the
// second derivatives too.
#pragma once

#include "cpu/pair_operands.h"
#include "math/box_pairs.h"

namespace handgrad::box_pair {

template <class C, class Formula>
struct Value {
  static constexpr unsigned kReads = bit(kBoxes1) | bit(kBoxes2), kWrites = bit(kLoss);
  Formula formula;
  HANDGRAD_MATH PairResults<C> operator()(const PairInputs<C>& in) const {
    const BoxPair<C> pair{in.boxes1, in.boxes2};
    PairResults<C> out{};
    out.loss = formula.value(pair.x(), pair.y());
    return out;
  }
};

template <class C>
HANDGRAD_MATH Box<C> scaled(C factor, const Box<C>& box) {
  return {factor * box.x1, factor * box.y1, factor * box.x2, factor * box.y2};
}

// Both gradients, or, as training asks for it, that of boxes1 alone.
template <class C, class Formula, bool OfBoth>
struct Gradient {
  static constexpr unsigned kReads = bit(kBoxes1) | bit(kBoxes2) | bit(kGradOutput),
                            kWrites = bit(kGrad1) | (OfBoth ? bit(kGrad2) : 0);
  Formula formula;
  HANDGRAD_MATH PairResults<C> operator()(const PairInputs<C>& in) const {
    const BoxPair<C> pair{in.boxes1, in.boxes2};
    const BoxPair<C> gradient = pair.gradient(formula.template slope<C>(pair.x(), pair.y()));
    PairResults<C> out{};
    out.grad1 = scaled(in.grad_output, gradient.first);
    out.grad2 = scaled(in.grad_output, gradient.second);
    return out;
  }
};

template <class C>
HANDGRAD_MATH Box<Dual<C>> along(const Box<C>& box, const Box<C>& direction) {
  return {{box.x1, direction.x1}, {box.y1, direction.y1}, {box.x2, direction.x2}, {box.y2, direction.y2}};
}
template <class C>
HANDGRAD_MATH Box<C> tangents(C factor, const Box<Dual<C>>& box) {
  return {factor * box.x1.tangent, factor * box.y1.tangent, factor * box.x2.tangent, factor * box.y2.tangent};
}
template <class C>
HANDGRAD_MATH C dot(const Box<Dual<C>>& box, const Box<C>& direction) {
  return box.x1.value * direction.x1 + box.y1.value * direction.y1 + box.x2.value * direction.x2 +
         box.y2.value * direction.y2;
}

// The gradient along a direction, and the Hessian times it: the gradient of dual numbers, whose tangents are the
// direction.
template <class C, class Formula>
struct SecondGradient {
  static constexpr unsigned kReads = Gradient<C, Formula, true>::kReads | bit(kDirection1) | bit(kDirection2),
                            kWrites = bit(kLoss) | bit(kGrad1) | bit(kGrad2);
  Formula formula;
  HANDGRAD_MATH PairResults<C> operator()(const PairInputs<C>& in) const {
    using N = Dual<C>;
    const BoxPair<N> pair{along(in.boxes1, in.direction1), along(in.boxes2, in.direction2)};
    const BoxPair<N> gradient = pair.gradient(formula.template slope<N>(pair.x(), pair.y()));
    return {dot(gradient.first, in.direction1) + dot(gradient.second, in.direction2),
            tangents(in.grad_output, gradient.first), tangents(in.grad_output, gradient.second)};
  }
};

// ---- what kinds ask of an op's boxes --------------------------------------------------------------------------------

// Axis-parallel boxes, as above. An op on others names them, `using Boxes = RotatedBoxes;` (rotated_box_pair.h).
struct AxisParallelBoxes {
  static constexpr int64_t kColumns = 4;
  static constexpr const char* kRow = "a row for x1, y1, x2, y2";
  // Whether a gradient of boxes1 alone is worth a loop of its own.
  static constexpr bool kOneGradient = true;
  // Whether formulas give the derivatives of 1 - value where the value is a measure's.
  static constexpr bool kOfLosses = true;
  template <class C, class Formula>
  using Value = box_pair::Value<C, Formula>;
  template <class C, class Formula, bool OfBoth>
  using Gradient = box_pair::Gradient<C, Formula, OfBoth>;
  template <class C, class Formula>
  using SecondGradient = box_pair::SecondGradient<C, Formula>;
};

namespace detail {
template <class Op>
struct BoxesOfOp {
  using type = AxisParallelBoxes;
};
template <class Op>
  requires requires { typename Op::Boxes; }
struct BoxesOfOp<Op> {
  using type = typename Op::Boxes;
};
}  // namespace detail

template <class Op>
using BoxesOf = typename detail::BoxesOfOp<Op>::type;

// How many numbers they are, and which: for checks.
struct BoxRow {
  int64_t columns;
  const char* text;
};
template <class Op>
inline constexpr BoxRow kBoxRow{BoxesOf<Op>::kColumns, BoxesOf<Op>::kRow};

}  // namespace handgrad::box_pair
