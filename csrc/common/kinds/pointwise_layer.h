// Layers that take each element by itself: everything of their host entries but the formula.
//
// An op describes itself as formula.h says; its formula has value(x) and its derivatives slope(x) and curvature(x). Its
// _cpu.cpp is this header, cpu/elementwise.h and one line,
//
//   handgrad::pointwise_layer::implement<MyLayerOp, handgrad::OnCpu>(library);
//
// and its _cuda.cu the same with cuda/elementwise.cuh and OnCuda. Nothing is saved between passes but the input.
#pragma once

#include "abi/output_mask.h"
#include "kinds/formula.h"

namespace handgrad::pointwise_layer {

template <class C, class Formula>
struct Value {
  Formula formula;
  // in: x
  HANDGRAD_MATH void operator()(const C (&in)[1], C (&out)[1]) const { out[0] = formula.value(in[0]); }
};

// The Jacobian is diagonal, so this is the backward's, and what forward mode asks of the double backward.
template <class C, class Formula>
struct Slope {
  Formula formula;
  // in: x, v; out: grad_input for v = grad_output, grad_grad_output for v = grad_grad_input
  HANDGRAD_MATH void operator()(const C (&in)[2], C (&out)[1]) const { out[0] = in[1] * formula.slope(in[0]); }
};

template <class C, class Formula>
struct SecondGradient {
  Formula formula;
  // in: x, grad_grad_input, grad_output; out: grad_grad_output, grad_input
  HANDGRAD_MATH void operator()(const C (&in)[3], C (&out)[2]) const {
    out[0] = in[1] * formula.slope(in[0]);
    out[1] = in[1] * in[2] * formula.curvature(in[0]);
  }
};

inline void check_backward(const char* op, const Tensor& grad_output, const Tensor& input) {
  check_floating(op, "input", input);
  check_like(op, "grad_output", grad_output, "input", input);
}

template <class Op, class Device, class Numbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  static Tensor forward(const Tensor& input,  // any shape
                        Number... numbers) {
    check_floating(Op::name, "input", input);
    const Tensor output = new_like(input);
    const Input in[] = {Input(input)};
    const Output out[] = {Output(output)};
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      Device::template for_each_element<C>(Op::name, "", input, Value<C, Formula>{formula}, in, out);
    };
    with_formula<Op>(input.scalar_type(), loop, numbers...);
    return output;
  }

  static Tensor backward(const Tensor& grad_output,  // as input
                         const Tensor& input,        // any shape
                         Number... numbers, const std::vector<bool>& output_mask) {
    check_backward(Op::name, grad_output, input);
    const std::array<bool, 1> need = as_output_mask<1>(Op::name, output_mask);
    const Tensor grad_input = empty_if(need[0], input);
    if (!need[0]) return grad_input;
    const Input in[] = {Input(input), Input(grad_output)};
    const Output out[] = {Output(grad_input)};
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      Device::template for_each_element<C>(Op::name, "_backward", input, Slope<C, Formula>{formula}, in, out);
    };
    with_formula<Op>(input.scalar_type(), loop, numbers...);
    return grad_input;
  }

  static std::tuple<Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,  // as input
                                                    const Tensor& grad_output,                     // as input
                                                    const Tensor& input,                           // any shape
                                                    Number... numbers, const std::vector<bool>& output_mask) {
    check_backward(Op::name, grad_output, input);
    if (grad_grad_input) check_like(Op::name, "grad_grad_input", *grad_grad_input, "input", input);
    const std::array<bool, 2> need = as_output_mask<2>(Op::name, output_mask);
    const Tensor grad_grad_output = empty_if(need[0], input), grad_input = empty_if(need[1], input);
    if (!need[0] && !need[1]) return {grad_grad_output, grad_input};
    const Input in[] = {Input(input), input_or_zero(grad_grad_input), Input(grad_output)};
    const Input without_grad[] = {in[0], in[1]};
    const Output out[] = {output_if(need[0], grad_grad_output), output_if(need[1], grad_input)};
    const Output first[] = {out[0]};
    const auto loop = [&]<class C, class Formula>(TypeTag<C>, const Formula& formula) {
      const char* pass = "_double_backward";
      if (need[1]) {
        Device::template for_each_element<C>(Op::name, pass, input, SecondGradient<C, Formula>{formula}, in, out);
      } else {
        Device::template for_each_element<C>(Op::name, pass, input, Slope<C, Formula>{formula}, without_grad, first);
      }
    };
    with_formula<Op>(input.scalar_type(), loop, numbers...);
    return {grad_grad_output, grad_input};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::pointwise_layer
