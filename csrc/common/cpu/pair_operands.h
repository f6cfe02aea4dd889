// The operands of a loop over pairs of boxes, for both devices; the loops themselves are cpu/box_pairs.h's and
// cuda/box_pairs.cuh's.
//
// An op gives a body of one pair, computed in C, float or double:
//
//   struct Body {
//     static constexpr unsigned kReads = …, kWrites = …;  // bits of PairOperand: no other is touched
//     HANDGRAD_MATH PairResults<C> operator()(const PairInputs<C>& in) const;
//   };
//
// A body of other boxes than Box<C> says of which, `using Row = RotatedBox<C>;`, in whose inputs and results they are.
#pragma once

#include "cpu/element_loop.h"
#include "math/boxes.h"

namespace handgrad {

// Boxes are rows of four coordinates, or of five numbers if they are rotated, the others one number for each pair.
enum PairOperand { kBoxes1, kBoxes2, kDirection1, kDirection2, kGradOutput, kLoss, kGrad1, kGrad2, kPairOperands };
static_assert(kPairOperands == kMaxOperands);

inline constexpr bool is_box(int k) { return k != kGradOutput && k != kLoss; }
inline constexpr bool is_result(int k) { return k >= kLoss; }
inline constexpr unsigned bit(PairOperand k) { return 1u << k; }

inline constexpr int64_t kMostColumns = 5;

template <class C, class Row = Box<C>>
struct PairInputs {
  Row boxes1, boxes2, direction1, direction2;
  C grad_output;
};
template <class C, class Row = Box<C>>
struct PairResults {
  C loss;
  Row grad1, grad2;
};

namespace detail {
template <class C, class Body>
struct RowOfBody {
  using type = Box<C>;
};
template <class C, class Body>
  requires requires { typename Body::Row; }
struct RowOfBody<C, Body> {
  using type = typename Body::Row;
};
}  // namespace detail

// What a body's boxes are.
template <class C, class Body>
using RowOf = typename detail::RowOfBody<C, Body>::type;

struct PairOperands {
  int64_t columns;  // numbers of a box
  std::array<Operand, kPairOperands> all{};
  std::array<int64_t, kPairOperands> coordinate_strides{};
  // What a grad_output that is one for all pairs is multiplied by.
  double factor = 1;
  // Where the sum of the losses goes, if that is asked for; null: they are not summed.
  Output sum = Output::nowhere();

  PairOperands(const Tensor& boxes1,  // [..., 4], or 5
               const Tensor& boxes2)  // that of boxes1
      : columns(boxes1.sizes()[boxes1.dim() - 1]) {
    set_boxes(kBoxes1, Input(boxes1), boxes1);
    set_boxes(kBoxes2, Input(boxes2), boxes2);
  }
  // A direction that is not given is zero.
  void set_directions(const std::optional<Tensor>& direction1,    // [..., 4]
                      const std::optional<Tensor>& direction2) {  // [..., 4]
    if (direction1) set_boxes(kDirection1, Input(*direction1), *direction1);
    if (direction2) set_boxes(kDirection2, Input(*direction2), *direction2);
  }
  // What is not wanted is written nowhere.
  void set_gradients(bool want1, const Tensor& grad1,    // [..., 4]
                     bool want2, const Tensor& grad2) {  // [..., 4]
    if (want1) set_boxes(kGrad1, Output(grad1), grad1);
    if (want2) set_boxes(kGrad2, Output(grad2), grad2);
  }
  void set_grad_output(const Input& input) {
    all[kGradOutput] = input;
    factor = input.factor;
  }
  void set_loss(const Output& output) {
    all[kLoss] = output;
    sum = output;
  }

  // The walk over all pairs: what the dimensions of `boxes`, [..., 4], are but for the last.
  ElementLoop loop(const Tensor& boxes) const {
    const Sizes sizes = boxes.sizes();
    return ElementLoop(Sizes(sizes.data(), sizes.size() - 1), all.data(), kPairOperands);
  }
  // Whether an operand's elements, or rows, follow each other without a gap.
  bool is_dense(const ElementLoop& loop, int k) const {
    return all[k].strides && loop.is_linear() && loop.stride(k) == (is_box(k) ? columns : 1) &&
           (!is_box(k) || coordinate_strides[k] == 1);
  }

 private:
  void set_boxes(PairOperand k, const Operand& operand, const Tensor& tensor) {
    all[k] = operand;
    coordinate_strides[k] = operand.strides[tensor.dim() - 1];
  }
};

}  // namespace handgrad
