// QuickGELU of one element, with both derivatives. Derivation: docs/layers/quick_gelu.md. With z = alpha x, s =
// sigmoid(z) and its derivative s' = s (1 - s):
//
//   f = x s      f' = s + z s'      f'' = alpha s' (2 + z (1 - 2 s))
#pragma once

#include <tuple>

#include "math/sigmoid.h"

namespace handgrad {

template <class T>
struct QuickGelu {
  T alpha;

  explicit QuickGelu(double alpha_value) : alpha(static_cast<T>(alpha_value)) {}

  HANDGRAD_MATH T value(T x) const {
    const T s = Sigmoid<T>(alpha * x).value;
    // At minus infinity, the limit; -inf * 0 would be NaN.
    return s == 0 ? T(0) : x * s;
  }

  HANDGRAD_MATH T slope(T x) const { return Sigmoid<T>(alpha * x).slope_of_product(); }

  HANDGRAD_MATH T curvature(T x) const { return alpha * Sigmoid<T>(alpha * x).curvature_of_product(); }
};

// For the kind: the op's name, its numbers as the schema has them, its formulas. kinds/formula.h says how several are
// told apart.
struct QuickGeluOp {
  static constexpr const char* name = "quick_gelu";
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<QuickGelu<T>>;
};

}  // namespace handgrad
