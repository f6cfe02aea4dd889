// Steps of formulas that are written for numbers and for dual numbers (math/dual.h), where torch rounds each by itself.
#pragma once

#include "math/dual.h"
#include "math/scalar_math.h"

namespace handgrad {

// What a derivative is after: of plain numbers themselves, of dual ones their tangent.
HANDGRAD_MATH float wanted_of(float x) { return x; }
HANDGRAD_MATH double wanted_of(double x) { return x; }
template <class C>
HANDGRAD_MATH C wanted_of(Dual<C> x) {
  return x.tangent;
}

// A product that no compiler fuses with a sum.
HANDGRAD_MATH float product(float a, float b) { return rounded_product(a, b); }
HANDGRAD_MATH double product(double a, double b) { return rounded_product(a, b); }
template <class C>
HANDGRAD_MATH Dual<C> product(Dual<C> a, Dual<C> b) {
  return a * b;
}

}  // namespace handgrad
