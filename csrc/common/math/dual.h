// Dual numbers: a number and its tangent, the derivative of it along a direction. A formula that is written for any
// type of number gives, of dual ones, its own derivative along a direction: a gradient written by hand gives the
// product of the Hessian with a vector, and there is no second formula that could differ from the first.
//
// Formulas call what stands here, of plain numbers and of dual ones: select in place of ?:, which keeps loops of
// vectors without branches; larger, smaller and preference, which know ties; constant, for what is not differentiated.
#pragma once

#include "math/scalar_math.h"

namespace handgrad {

template <class T>
struct Dual {
  T value, tangent;

  Dual() = default;
  // A constant.
  HANDGRAD_MATH Dual(T constant) : value(constant), tangent(0) {}
  HANDGRAD_MATH Dual(T number, T along) : value(number), tangent(along) {}

  friend HANDGRAD_MATH Dual operator-(Dual a) { return {-a.value, -a.tangent}; }
  friend HANDGRAD_MATH Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.tangent + b.tangent}; }
  friend HANDGRAD_MATH Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.tangent - b.tangent}; }
  friend HANDGRAD_MATH Dual operator*(Dual a, Dual b) {
    return {a.value * b.value, a.tangent * b.value + a.value * b.tangent};
  }
  friend HANDGRAD_MATH Dual operator/(Dual a, Dual b) {
    const T quotient = a.value / b.value;
    return {quotient, (a.tangent - quotient * b.tangent) / b.value};
  }
  // With constants, whose tangents need no arithmetic.
  friend HANDGRAD_MATH Dual operator+(Dual a, T b) { return {a.value + b, a.tangent}; }
  friend HANDGRAD_MATH Dual operator+(T a, Dual b) { return {a + b.value, b.tangent}; }
  friend HANDGRAD_MATH Dual operator-(Dual a, T b) { return {a.value - b, a.tangent}; }
  friend HANDGRAD_MATH Dual operator-(T a, Dual b) { return {a - b.value, -b.tangent}; }
  friend HANDGRAD_MATH Dual operator*(Dual a, T b) { return {a.value * b, a.tangent * b}; }
  friend HANDGRAD_MATH Dual operator*(T a, Dual b) { return {a * b.value, a * b.tangent}; }
  friend HANDGRAD_MATH Dual operator/(T a, Dual b) {
    const T quotient = a / b.value;
    return {quotient, -quotient * b.tangent / b.value};
  }
};

// ---- the plain number in a number -----------------------------------------------------------------------------------

HANDGRAD_MATH float value_of(float x) { return x; }
HANDGRAD_MATH double value_of(double x) { return x; }
template <class T>
HANDGRAD_MATH T value_of(Dual<T> x) {
  return x.value;
}

// The type of it.
template <class N>
struct PlainNumber {
  using type = N;
};
template <class T>
struct PlainNumber<Dual<T>> {
  using type = T;
};
template <class N>
using Plain = typename PlainNumber<N>::type;

// What a formula does not differentiate.
template <class N>
HANDGRAD_MATH N constant(N x) {
  return N(value_of(x));
}

template <class T>
HANDGRAD_MATH Dual<T> exp(Dual<T> x) {
  const T power = exp(x.value);
  return {power, power * x.tangent};
}
template <class T>
HANDGRAD_MATH Dual<T> log(Dual<T> x) {
  return {log(x.value), x.tangent / x.value};
}
template <class T>
HANDGRAD_MATH Dual<T> square_root(Dual<T> x) {
  const T root = square_root(x.value);
  return {root, x.tangent / (2 * root)};
}

// ---- choices --------------------------------------------------------------------------------------------------------

HANDGRAD_MATH float select(bool condition, float yes, float no) { return condition ? yes : no; }
HANDGRAD_MATH double select(bool condition, double yes, double no) { return condition ? yes : no; }
template <class T>
HANDGRAD_MATH Dual<T> select(bool condition, Dual<T> yes, Dual<T> no) {
  return {condition ? yes.value : no.value, condition ? yes.tangent : no.tangent};
}

// The part that `a` has in the larger of both: 1, 0, or half of it at a tie, as torch's autograd has it. In the smaller
// it has the rest.
template <class T>
HANDGRAD_MATH T preference(T a, T b) {
  const T above = a > b ? T(1) : T(0);
  return a == b ? T(0.5) : above;
}
template <class T>
HANDGRAD_MATH T preference(Dual<T> a, Dual<T> b) {
  return preference(a.value, b.value);
}

template <class T>
HANDGRAD_MATH Dual<T> larger(Dual<T> a, Dual<T> b) {
  const T part = preference(a, b);
  return {a.value < b.value ? b.value : a.value, part * a.tangent + (1 - part) * b.tangent};
}
template <class T>
HANDGRAD_MATH Dual<T> smaller(Dual<T> a, Dual<T> b) {
  const T part = preference(a, b);
  return {b.value < a.value ? b.value : a.value, (1 - part) * a.tangent + part * b.tangent};
}

}  // namespace handgrad
