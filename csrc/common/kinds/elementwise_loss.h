// Losses of inputs and targets, element by element, with a reduction: everything of their host entries but the formula.
//
// An op describes itself as formula.h says; its formula has value(x, t), slope(x, t) {inputs, targets} and
// curvature(x, t) {inputs_inputs, inputs_targets, targets_targets}. Its _cpu.cpp is this header, cpu/elementwise.h and
// one line,
//
//   handgrad::elementwise_loss::implement<MyLossOp, handgrad::OnCpu>(library);
//
// and its _cuda.cu the same with cuda/elementwise.cuh and OnCuda.
//
// Every pass reads inputs and targets once and writes what was asked for: nothing is saved between passes, because
// computing an element again is cheaper than reading an intermediate back from memory.
#pragma once

#include <optional>

#include "abi/output_mask.h"
#include "abi/reduction.h"
#include "cpu/element_loop.h"
#include "kinds/formula.h"

namespace handgrad::elementwise_loss {

// ---- one element ----------------------------------------------------------------------------------------------------

template <class C, class Formula>
struct Value {
  Formula formula;
  // in: x, t
  HANDGRAD_MATH void operator()(const C (&in)[2], C (&out)[1]) const { out[0] = formula.value(in[0], in[1]); }
};

// What training asks for: the half of the slope that it does not need is not computed.
template <class C, class Formula>
struct InputsGradient {
  Formula formula;
  // in: x, t, grad_output; out: grad_inputs
  HANDGRAD_MATH void operator()(const C (&in)[3], C (&out)[1]) const {
    out[0] = in[2] * formula.slope(in[0], in[1]).inputs;
  }
};

// Both halves of the slope, by themselves for the backward, and together along (u, v), which is what forward mode asks
// of the double backward.
template <class C, class Formula>
struct Slopes {
  Formula formula;
  // in: x, t, u, v (in the backward grad_output twice); out: grad_grad_output, grad_inputs, grad_targets
  HANDGRAD_MATH void operator()(const C (&in)[4], C (&out)[3]) const {
    const auto slope = formula.slope(in[0], in[1]);
    out[1] = in[2] * slope.inputs;
    out[2] = in[3] * slope.targets;
    out[0] = out[1] + out[2];
  }
};

// The slope along (u, v), and the Hessian times (u, v).
template <class C, class Formula>
struct SecondGradient {
  Formula formula;
  // in: x, t, u, v, grad_output; out: grad_grad_output, grad_inputs, grad_targets
  HANDGRAD_MATH void operator()(const C (&in)[5], C (&out)[3]) const {
    const auto slope = formula.slope(in[0], in[1]);
    const auto curvature = formula.curvature(in[0], in[1]);
    const C u = in[2], v = in[3], g = in[4];
    out[0] = slope.inputs * u + slope.targets * v;
    out[1] = g * (curvature.inputs_inputs * u + curvature.inputs_targets * v);
    out[2] = g * (curvature.inputs_targets * u + curvature.targets_targets * v);
  }
};

// ---- checks, and the results to be filled ---------------------------------------------------------------------------

inline Reduction check_arguments(const char* op, const Tensor& inputs, const Tensor& targets, int64_t reduction) {
  check_floating(op, "inputs", inputs);
  check_like(op, "targets", targets, "inputs", inputs);
  return as_reduction(op, reduction);
}

inline Reduction check_backward(const char* op, const Tensor& grad_output, const Tensor& inputs, const Tensor& targets,
                                int64_t reduction_code) {
  const Reduction reduction = check_arguments(op, inputs, targets, reduction_code);
  if (reduction == Reduction::none) {
    check_like(op, "grad_output", grad_output, "inputs", inputs);
  } else {
    HANDGRAD_CHECK(grad_output.numel() == 1 && grad_output.scalar_type() == inputs.scalar_type(), op,
                   ": grad_output must be one element of the dtype of inputs; got ", shape_text(grad_output), " of ",
                   dtype_text(grad_output.scalar_type()));
    check_device(op, "grad_output", grad_output, "inputs", inputs);
  }
  return reduction;
}

struct Results {
  Reduction reduction;
  const Tensor& inputs;  // any shape

  // What a loss, or its derivative along a direction, is divided by.
  double divisor() const { return reduction == Reduction::mean ? static_cast<double>(inputs.numel()) : 1.0; }
  // One number, or one for each element.
  Tensor empty_loss() const { return reduction == Reduction::none ? new_like(inputs) : empty_scalar(inputs); }
  Output loss(bool wanted, const Tensor& output) const {
    if (!wanted) return Output::nowhere();
    return reduction == Reduction::none ? Output(output) : Output::sum(output, divisor());
  }
  Input grad_output(const Tensor& grad_output) const {
    return reduction == Reduction::none ? Input(grad_output) : Input::scalar(grad_output, divisor());
  }
};

// ---- host entries ---------------------------------------------------------------------------------------------------

template <class Op, class Device, class Numbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  static Tensor forward(const Tensor& inputs,   // any shape
                        const Tensor& targets,  // that of inputs
                        Number... numbers, int64_t reduction) {
    const Results results{check_arguments(Op::name, inputs, targets, reduction), inputs};
    const Tensor output = results.empty_loss();
    const Input in[] = {Input(inputs), Input(targets)};
    const Output out[] = {results.loss(true, output)};
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      Device::template for_each_element<C>(Op::name, "", inputs, Value<C, Formula>{formula}, in, out);
    };
    with_formula<Op>(inputs.scalar_type(), loop, numbers...);
    return output;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // as the loss: that of inputs, or one element
                                             const Tensor& inputs,       // any shape
                                             const Tensor& targets,      // that of inputs
                                             Number... numbers, int64_t reduction,
                                             const std::vector<bool>& output_mask) {
    const Results results{check_backward(Op::name, grad_output, inputs, targets, reduction), inputs};
    const std::array<bool, 2> need = as_output_mask<2>(Op::name, output_mask);
    const Tensor grad_inputs = empty_if(need[0], inputs), grad_targets = empty_if(need[1], targets);
    if (!need[0] && !need[1]) return {grad_inputs, grad_targets};
    const Input grad = results.grad_output(grad_output);
    const Input in[] = {Input(inputs), Input(targets), grad}, in_twice[] = {in[0], in[1], grad, grad};
    const Output out[] = {output_if(need[0], grad_inputs)};
    const Output both[] = {Output::nowhere(), out[0], output_if(need[1], grad_targets)};
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      const char* pass = "_backward";
      if constexpr (!kIsLeftOver<Formula>) {
        if (!need[1]) {
          Device::template for_each_element<C>(Op::name, pass, inputs, InputsGradient<C, Formula>{formula}, in, out);
          return;
        }
      }
      Device::template for_each_element<C>(Op::name, pass, inputs, Slopes<C, Formula>{formula}, in_twice, both);
    };
    with_formula<Op>(inputs.scalar_type(), loop, numbers...);
    return {grad_inputs, grad_targets};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(
      const std::optional<Tensor>& grad_grad_inputs,   // as inputs
      const std::optional<Tensor>& grad_grad_targets,  // as inputs
      const Tensor& grad_output,                       // as the loss
      const Tensor& inputs,                            // any shape
      const Tensor& targets,                           // that of inputs
      Number... numbers, int64_t reduction, const std::vector<bool>& output_mask) {
    const Results results{check_backward(Op::name, grad_output, inputs, targets, reduction), inputs};
    if (grad_grad_inputs) check_like(Op::name, "grad_grad_inputs", *grad_grad_inputs, "inputs", inputs);
    if (grad_grad_targets) check_like(Op::name, "grad_grad_targets", *grad_grad_targets, "inputs", inputs);
    const std::array<bool, 3> need = as_output_mask<3>(Op::name, output_mask);
    const Tensor grad_grad_output = need[0] ? results.empty_loss() : empty_placeholder(grad_output);
    const Tensor grad_inputs = empty_if(need[1], inputs), grad_targets = empty_if(need[2], targets);
    if (!need[0] && !need[1] && !need[2]) return {grad_grad_output, grad_inputs, grad_targets};
    const Input in[] = {Input(inputs), Input(targets), input_or_zero(grad_grad_inputs),
                        input_or_zero(grad_grad_targets), results.grad_output(grad_output)};
    const Input without_grad[] = {in[0], in[1], in[2], in[3]};
    const Output out[] = {results.loss(need[0], grad_grad_output), output_if(need[1], grad_inputs),
                          output_if(need[2], grad_targets)};
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      const char* pass = "_double_backward";
      if (need[1] || need[2]) {
        Device::template for_each_element<C>(Op::name, pass, inputs, SecondGradient<C, Formula>{formula}, in, out);
      } else {
        Device::template for_each_element<C>(Op::name, pass, inputs, Slopes<C, Formula>{formula}, without_grad, out);
      }
    };
    with_formula<Op>(inputs.scalar_type(), loop, numbers...);
    return {grad_grad_output, grad_inputs, grad_targets};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::elementwise_loss
