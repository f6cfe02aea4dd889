// QuickGELU of one element, with both derivatives. Derivation: docs/layers/quick_gelu.md. With z = alpha x, s =
// sigmoid(z) and its derivative s' = s (1 - s):
//
//   f = x s      f' = s + z s'      f'' = alpha s' (2 + z (1 - 2 s))
#pragma once

#include <limits>
#include <tuple>

#include "math/scalar_math.h"

namespace handgrad {

template <class T>
struct QuickGelu {
  T alpha;

  explicit QuickGelu(double alpha_value) : alpha(static_cast<T>(alpha_value)) {}

  HANDGRAD_MATH T value(T x) const {
    const T s = Sigmoid(alpha * x).value;
    // At minus infinity, the limit; -inf * 0 would be NaN.
    return s == 0 ? T(0) : x * s;
  }

  HANDGRAD_MATH T slope(T x) const {
    const Sigmoid s(alpha * x);
    const T growth = s.distance * s.slope;
    return s.value + (s.positive ? growth : -growth);
  }

  HANDGRAD_MATH T curvature(T x) const {
    const Sigmoid s(alpha * x);
    // z (1 - 2 s) is the same on both sides of 0.
    return alpha * s.slope * (2 - s.distance * s.rise);
  }

 private:
  // Of z, from the side on which nothing overflows: with e = exp(-|z|) the sigmoid is 1 / (1 + e) or e / (1 + e).
  struct Sigmoid {
    // distance = |z|, but finite: at infinity the slope is 0, and so has to be their product. rise = |1 - 2 s|.
    T distance, value, slope, rise;
    bool positive;

    HANDGRAD_MATH explicit Sigmoid(T z) {
      constexpr T largest = std::numeric_limits<T>::max();
      distance = absolute(z);
      positive = z >= 0;
      const T e = exp_decay(distance), larger = 1 / (1 + e), smaller = e * larger;
      distance = largest < distance ? largest : distance;
      value = positive ? larger : smaller;
      slope = larger * smaller;
      rise = (1 - e) * larger;
    }
  };
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
