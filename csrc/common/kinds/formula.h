// What kinds of ops share whose formula is a type, chosen by the op's numbers at run time.
//
// An op describes itself to its kind:
//
//   struct MyLossOp {
//     static constexpr const char* name = "my_loss";
//     using Numbers = std::tuple<double, double>;                             // gamma, clip: as in the schema
//     template <class T>
//     using Formulas = std::tuple<MyLoss<T, true>, MyLoss<T, false>>;         // special cases first
//   };
//
// A formula is made from the numbers, in the type T that it is computed in. The first is taken whose serves() is true;
// the last serves all numbers and need not say so.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "abi/dtype.h"
#include "abi/registration.h"
#include "cpu/element_loop.h"

namespace handgrad {

// A formula that serves what the special cases before it have left over, and so is worth less code than they are.
template <class Formula>
struct LeftOver : Formula {
  using Formula::Formula;
};
template <class Formula>
inline constexpr bool kIsLeftOver = false;
template <class Formula>
inline constexpr bool kIsLeftOver<LeftOver<Formula>> = true;
template <template <class, class> class Body, class C, class Formula>
inline constexpr bool kIsRare<Body<C, LeftOver<Formula>>> = true;

namespace detail {

template <class Formulas, size_t At, class Body, class... Number>
void with_first_that_serves(const Body& body, Number... numbers) {
  using Formula = std::tuple_element_t<At, Formulas>;
  if constexpr (At + 1 < std::tuple_size_v<Formulas>) {
    const Formula formula(numbers...);
    if (formula.serves()) return body(formula);
    with_first_that_serves<Formulas, At + 1>(body, numbers...);
  } else {
    const std::conditional_t<At == 0, Formula, LeftOver<Formula>> formula(numbers...);
    body(formula);
  }
}

}  // namespace detail

// Calls body(TypeTag<C>{}, formula), C being the type that elements of `dtype` are computed in.
template <class Op, class Body, class... Number>
void with_formula(ScalarType dtype, const Body& body, Number... numbers) {
  dispatch_compute(Op::name, dtype, [&](auto tag) {
    using Formulas = typename Op::template Formulas<typename decltype(tag)::type>;
    detail::with_first_that_serves<Formulas, 0>([&](const auto& formula) { body(tag, formula); }, numbers...);
  });
}

// A result of a loop over elements, as the output_mask has it: where it is not asked for, nothing is written.
inline Tensor empty_if(bool wanted, const Tensor& like) { return wanted ? new_like(like) : empty_placeholder(like); }
inline Output output_if(bool wanted, const Tensor& result) { return wanted ? Output(result) : Output::nowhere(); }
// A direction; one that is not given is zero.
inline Input input_or_zero(const std::optional<Tensor>& tensor) { return tensor ? Input(*tensor) : Input::zero(); }

// Registers an op and the private ops of its derivatives.
template <auto Forward, auto Backward, auto DoubleBackward, class Library>
[[gnu::cold]] void implement_differentiable(Library& library, const std::string& op) {
  implement<Forward>(library, op.c_str());
  implement<Backward>(library, ("_" + op + "_backward").c_str());
  implement<DoubleBackward>(library, ("_" + op + "_double_backward").c_str());
}

}  // namespace handgrad
