// Losses of pairs of boxes, a row of numbers each, with a reduction: everything of their host entries but the formula.
//
// An op describes itself as formula.h says; its formula is one of a pair of boxes, as box_pair.h has it. Its _cpu.cpp
// is this header, cpu/box_pairs.h and one line,
//
//   handgrad::box_loss::implement<MyLossOp, handgrad::PairsOnCpu>(library);
//
// and its _cuda.cu the same with cuda/box_pairs.cuh and PairsOnCuda.
//
// Boxes of half types are read as they are, and their losses are float32: a sum of losses, or a loss near 0, has more
// digits than a half type holds. Nothing is saved between passes.
#pragma once

#include <optional>

#include "abi/output_mask.h"
#include "abi/reduction.h"
#include "cpu/pair_operands.h"
#include "kinds/box_pair.h"
#include "kinds/formula.h"

namespace handgrad::box_loss {

using box_pair::BoxesOf;
using box_pair::BoxRow;
using box_pair::kBoxRow;

// ---- checks, and the results to be filled ---------------------------------------------------------------------------

inline Reduction check_arguments(const char* op, const BoxRow& row, const Tensor& boxes1, const Tensor& boxes2,
                                 int64_t reduction) {
  check_floating(op, "boxes1", boxes1);
  HANDGRAD_CHECK(boxes1.dim() > 0 && boxes1.sizes()[boxes1.dim() - 1] == row.columns, op,
                 ": boxes1 must have shape (..., ", row.columns, "), ", row.text, "; got ", shape_text(boxes1));
  check_like(op, "boxes2", boxes2, "boxes1", boxes1);
  return as_reduction(op, reduction);
}

// What an op's results are like.
struct Results {
  Reduction reduction;
  const Tensor& boxes;  // [..., 4], or 5

  Sizes pairs() const { return Sizes(boxes.sizes().data(), boxes.sizes().size() - 1); }
  // The mean of no pairs is 0.
  double divisor() const {
    if (reduction != Reduction::mean) return 1;
    return static_cast<double>(std::max<int64_t>(1, boxes.numel() / boxes.sizes()[boxes.dim() - 1]));
  }
  ScalarType loss_dtype() const {
    return boxes.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
  // One number, or one for each pair.
  Tensor empty_loss() const {
    const Sizes sizes = reduction == Reduction::none ? pairs() : Sizes();
    const std::vector<int64_t> strides = contiguous_strides(sizes);
    return empty_strided(sizes, Sizes(strides.data(), strides.size()),
                         loss_dtype() == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(),
                         boxes);
  }
  Output loss(bool wanted, const Tensor& output) const {
    if (!wanted) return Output::nowhere();
    return reduction == Reduction::none ? Output(output) : Output::sum(output, divisor());
  }
  Input grad_output(const Tensor& grad_output) const {
    return reduction == Reduction::none ? Input(grad_output) : Input::scalar(grad_output, divisor());
  }
};

inline Results check_backward(const char* op, const BoxRow& row, const Tensor& grad_output, const Tensor& boxes1,
                              const Tensor& boxes2, int64_t reduction) {
  const Results results{check_arguments(op, row, boxes1, boxes2, reduction), boxes1};
  const Sizes sizes = grad_output.sizes(), pairs = results.pairs();
  const bool fits = results.reduction == Reduction::none
                        ? std::equal(sizes.begin(), sizes.end(), pairs.begin(), pairs.end())
                        : grad_output.numel() == 1;
  HANDGRAD_CHECK(fits && grad_output.scalar_type() == results.loss_dtype(), op, ": grad_output must be ",
                 results.reduction == Reduction::none ? shape_text(pairs) : "one element", " of ",
                 dtype_text(results.loss_dtype()), ", as the loss; got ", shape_text(grad_output), " of ",
                 dtype_text(grad_output.scalar_type()));
  check_device(op, "grad_output", grad_output, "boxes1", boxes1);
  return results;
}

// ---- host entries ---------------------------------------------------------------------------------------------------

template <class Op, class Device, class Numbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  using Boxes = BoxesOf<Op>;
  static constexpr BoxRow kRow = kBoxRow<Op>;

  static Tensor forward(const Tensor& boxes1,  // [..., 4]
                        const Tensor& boxes2,  // that of boxes1
                        Number... numbers, int64_t reduction) {
    const Results results{check_arguments(Op::name, kRow, boxes1, boxes2, reduction), boxes1};
    const Tensor output = results.empty_loss();
    PairOperands operands(boxes1, boxes2);
    operands.set_loss(results.loss(true, output));
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      const typename Boxes::template Value<C, Formula> body{formula};
      Device::template for_each_pair<C>(Op::name, "", boxes1, body, operands);
    };
    with_formula<Op>(boxes1.scalar_type(), loop, numbers...);
    return output;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // as the loss: [...], or one element
                                             const Tensor& boxes1,       // [..., 4]
                                             const Tensor& boxes2,       // that of boxes1
                                             Number... numbers, int64_t reduction,
                                             const std::vector<bool>& output_mask) {
    const Results results = check_backward(Op::name, kRow, grad_output, boxes1, boxes2, reduction);
    const std::array<bool, 2> need = as_output_mask<2>(Op::name, output_mask);
    const Tensor grad_boxes1 = empty_if(need[0], boxes1), grad_boxes2 = empty_if(need[1], boxes2);
    if (!need[0] && !need[1]) return {grad_boxes1, grad_boxes2};
    PairOperands operands(boxes1, boxes2);
    operands.set_grad_output(results.grad_output(grad_output));
    operands.set_gradients(need[0], grad_boxes1, need[1], grad_boxes2);
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      const char* pass = "_backward";
      if (need[1] || !Boxes::kOneGradient) {
        const typename Boxes::template Gradient<C, Formula, true> body{formula};
        Device::template for_each_pair<C>(Op::name, pass, boxes1, body, operands);
      } else if constexpr (Boxes::kOneGradient) {
        const typename Boxes::template Gradient<C, Formula, false> body{formula};
        Device::template for_each_pair<C>(Op::name, pass, boxes1, body, operands);
      }
    };
    with_formula<Op>(boxes1.scalar_type(), loop, numbers...);
    return {grad_boxes1, grad_boxes2};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_boxes1,  // as boxes1
                                                            const std::optional<Tensor>& grad_grad_boxes2,  // as boxes1
                                                            const Tensor& grad_output,  // as the loss
                                                            const Tensor& boxes1,       // [..., 4]
                                                            const Tensor& boxes2,       // that of boxes1
                                                            Number... numbers, int64_t reduction,
                                                            const std::vector<bool>& output_mask) {
    const Results results = check_backward(Op::name, kRow, grad_output, boxes1, boxes2, reduction);
    if (grad_grad_boxes1) check_like(Op::name, "grad_grad_boxes1", *grad_grad_boxes1, "boxes1", boxes1);
    if (grad_grad_boxes2) check_like(Op::name, "grad_grad_boxes2", *grad_grad_boxes2, "boxes1", boxes1);
    const std::array<bool, 3> need = as_output_mask<3>(Op::name, output_mask);
    const Tensor grad_grad_output = need[0] ? results.empty_loss() : empty_placeholder(grad_output);
    const Tensor grad_boxes1 = empty_if(need[1], boxes1), grad_boxes2 = empty_if(need[2], boxes2);
    if (!need[0] && !need[1] && !need[2]) return {grad_grad_output, grad_boxes1, grad_boxes2};
    PairOperands operands(boxes1, boxes2);
    operands.set_directions(grad_grad_boxes1, grad_grad_boxes2);
    operands.set_grad_output(results.grad_output(grad_output));
    operands.set_loss(results.loss(need[0], grad_grad_output));
    operands.set_gradients(need[1], grad_boxes1, need[2], grad_boxes2);
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      const char* pass = "_double_backward";
      const typename Boxes::template SecondGradient<C, Formula> body{formula};
      Device::template for_each_pair<C>(Op::name, pass, boxes1, body, operands);
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

}  // namespace handgrad::box_loss
