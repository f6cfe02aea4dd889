// A measure of all pairs of two tables of boxes, [..., N, 4] and [..., M, 4]: a matrix, [..., N, M], and its
// derivatives with respect to both; everything of the host entries but the formula.
//
// An op describes itself as formula.h says; its formula is one of a pair of boxes, as box_pair.h has it. Its _cpu.cpp
// is this header, cpu/box_matrix.h and one line,
//
//   handgrad::box_matrix::implement<MyMeasureOp, handgrad::MatrixOnCpu>(library);
//
// and its _cuda.cu the same with cuda/box_matrix.cuh and MatrixOnCuda.
//
// Boxes of half types are read as they are, and their matrix is float32: a part of a union has more digits than a half
// type holds. Nothing is saved between passes: the derivatives of each pair are computed again, and added up.
#pragma once

#include <optional>

#include "abi/output_mask.h"
#include "cpu/matrix_operands.h"
#include "kinds/box_pair.h"
#include "kinds/formula.h"

namespace handgrad::box_matrix {

using box_pair::BoxesOf;
using box_pair::BoxRow;
using box_pair::kBoxRow;

// ---- one pair -------------------------------------------------------------------------------------------------------

// A derivative of 1 - value as one of value.
template <class C, class Body>
struct TurnedRound {
  static constexpr unsigned kReads = Body::kReads, kWrites = Body::kWrites;
  Body body;
  HANDGRAD_MATH PairResults<C> operator()(const PairInputs<C>& in) const {
    PairInputs<C> turned = in;
    turned.grad_output = -in.grad_output;
    PairResults<C> out = body(turned);
    if constexpr (kWrites & bit(kLoss)) out.loss = -out.loss;
    return out;
  }
};

// The bodies of a measure's derivatives: those of a loss turned round, but for boxes whose formulas are measures.
template <class Op, class C, class Formula, bool OfBoth>
using Gradient = std::conditional_t<BoxesOf<Op>::kOfLosses,
                                    TurnedRound<C, typename BoxesOf<Op>::template Gradient<C, Formula, OfBoth>>,
                                    typename BoxesOf<Op>::template Gradient<C, Formula, OfBoth>>;
template <class Op, class C, class Formula>
using SecondGradient = std::conditional_t<BoxesOf<Op>::kOfLosses,
                                          TurnedRound<C, typename BoxesOf<Op>::template SecondGradient<C, Formula>>,
                                          typename BoxesOf<Op>::template SecondGradient<C, Formula>>;

// ---- checks, and the results to be filled ---------------------------------------------------------------------------

inline void check_table(const char* op, const BoxRow& row, const char* argument, const Tensor& boxes) {
  check_floating(op, argument, boxes);
  HANDGRAD_CHECK(boxes.dim() > 1 && boxes.sizes()[boxes.dim() - 1] == row.columns, op, ": ", argument,
                 " must have shape (..., boxes, ", row.columns, "), ", row.text, "; got ", shape_text(boxes));
}

inline void check_arguments(const char* op, const BoxRow& row, const Tensor& boxes1, const Tensor& boxes2) {
  check_table(op, row, "boxes1", boxes1);
  check_table(op, row, "boxes2", boxes2);
  const Sizes first = boxes1.sizes(), second = boxes2.sizes();
  HANDGRAD_CHECK(first.size() == second.size() && std::equal(first.begin(), first.end() - 2, second.begin()), op,
                 ": boxes2 must have the batches of boxes1, ", shape_text(Sizes(first.data(), first.size() - 2)),
                 ", before its boxes; got ", shape_text(boxes2));
  check_dtype_and_device(op, "boxes2", boxes2, "boxes1", boxes1);
}

inline ScalarType matrix_dtype(const Tensor& boxes) {
  return boxes.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
inline std::vector<int64_t> matrix_sizes(const Tensor& boxes1, const Tensor& boxes2) {
  std::vector<int64_t> sizes(boxes1.sizes().begin(), boxes1.sizes().end());
  sizes.back() = boxes2.sizes()[boxes2.dim() - 2];
  return sizes;
}
inline Tensor empty_matrix(const Tensor& boxes1, const Tensor& boxes2) {
  const std::vector<int64_t> sizes = matrix_sizes(boxes1, boxes2);
  const std::vector<int64_t> strides = contiguous_strides(Sizes(sizes.data(), sizes.size()));
  const bool in_double = matrix_dtype(boxes1) == ScalarType::Double;
  return empty_strided(Sizes(sizes.data(), sizes.size()), Sizes(strides.data(), strides.size()),
                       in_double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(), boxes1);
}

inline void check_backward(const char* op, const BoxRow& row, const Tensor& grad_output, const Tensor& boxes1,
                           const Tensor& boxes2) {
  check_arguments(op, row, boxes1, boxes2);
  const std::vector<int64_t> sizes = matrix_sizes(boxes1, boxes2);
  const Sizes given = grad_output.sizes();
  HANDGRAD_CHECK(std::equal(given.begin(), given.end(), sizes.begin(), sizes.end()) &&
                     grad_output.scalar_type() == matrix_dtype(boxes1),
                 op, ": grad_output must be ", shape_text(Sizes(sizes.data(), sizes.size())), " of ",
                 dtype_text(matrix_dtype(boxes1)), ", as the result; got ", shape_text(given), " of ",
                 dtype_text(grad_output.scalar_type()));
  check_device(op, "grad_output", grad_output, "boxes1", boxes1);
}

// ---- host entries ---------------------------------------------------------------------------------------------------

template <class Op, class Device, class Numbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  using Boxes = BoxesOf<Op>;
  static constexpr BoxRow kRow = kBoxRow<Op>;

  static Tensor forward(const Tensor& boxes1,  // [..., N, 4]
                        const Tensor& boxes2,  // [..., M, 4]
                        Number... numbers) {
    check_arguments(Op::name, kRow, boxes1, boxes2);
    const Tensor output = empty_matrix(boxes1, boxes2);
    if (output.numel() == 0) return output;
    MatrixOperands operands(boxes1, boxes2);
    operands.set_matrix(true, output);
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      const typename Boxes::template Value<C, Formula> body{formula};
      Device::template for_each_pair<C>(Op::name, "", boxes1, body, operands);
    };
    with_formula<Op>(boxes1.scalar_type(), loop, numbers...);
    return output;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // [..., N, M]
                                             const Tensor& boxes1,       // [..., N, 4]
                                             const Tensor& boxes2,       // [..., M, 4]
                                             Number... numbers, const std::vector<bool>& output_mask) {
    check_backward(Op::name, kRow, grad_output, boxes1, boxes2);
    const std::array<bool, 2> need = as_output_mask<2>(Op::name, output_mask);
    const Tensor grad_boxes1 = empty_if(need[0], boxes1), grad_boxes2 = empty_if(need[1], boxes2);
    if (!need[0] && !need[1]) return {grad_boxes1, grad_boxes2};
    MatrixOperands operands(boxes1, boxes2);
    operands.set_grad_output(grad_output);
    operands.set_gradients(need[0], grad_boxes1, need[1], grad_boxes2);
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      const char* pass = "_backward";
      if (need[1] || !Boxes::kOneGradient) {
        const Gradient<Op, C, Formula, true> body{formula};
        Device::template for_each_pair<C>(Op::name, pass, boxes1, body, operands);
      } else if constexpr (Boxes::kOneGradient) {
        const Gradient<Op, C, Formula, false> body{formula};
        Device::template for_each_pair<C>(Op::name, pass, boxes1, body, operands);
      }
    };
    with_formula<Op>(boxes1.scalar_type(), loop, numbers...);
    return {grad_boxes1, grad_boxes2};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_boxes1,  // as boxes1
                                                            const std::optional<Tensor>& grad_grad_boxes2,  // as boxes2
                                                            const Tensor& grad_output,  // [..., N, M]
                                                            const Tensor& boxes1,       // [..., N, 4]
                                                            const Tensor& boxes2,       // [..., M, 4]
                                                            Number... numbers, const std::vector<bool>& output_mask) {
    check_backward(Op::name, kRow, grad_output, boxes1, boxes2);
    if (grad_grad_boxes1) check_like(Op::name, "grad_grad_boxes1", *grad_grad_boxes1, "boxes1", boxes1);
    if (grad_grad_boxes2) check_like(Op::name, "grad_grad_boxes2", *grad_grad_boxes2, "boxes2", boxes2);
    const std::array<bool, 3> need = as_output_mask<3>(Op::name, output_mask);
    const Tensor grad_grad_output = need[0] ? empty_matrix(boxes1, boxes2) : empty_placeholder(grad_output);
    const Tensor grad_boxes1 = empty_if(need[1], boxes1), grad_boxes2 = empty_if(need[2], boxes2);
    if (!need[0] && !need[1] && !need[2]) return {grad_grad_output, grad_boxes1, grad_boxes2};
    MatrixOperands operands(boxes1, boxes2);
    operands.set_directions(grad_grad_boxes1, grad_grad_boxes2);
    operands.set_grad_output(grad_output);
    operands.set_matrix(need[0], grad_grad_output);
    operands.set_gradients(need[1], grad_boxes1, need[2], grad_boxes2);
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      const SecondGradient<Op, C, Formula> body{formula};
      Device::template for_each_pair<C>(Op::name, "_double_backward", boxes1, body, operands);
    };
    with_formula<Op>(boxes1.scalar_type(), loop, numbers...);
    return {grad_grad_output, grad_boxes1, grad_boxes2};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::box_matrix
