// Local response normalisation of one element, with both derivatives. Derivation: docs/layers/local_response_norm.md.
//
//   y_c = x_c d_c^-beta,   d_c = k + (alpha / size) sum of x_j^2 over the window of c
//
// Everything that mixes channels is one of two sums, which the caller takes: over W(c), the window of channel c, and
// over W*(j), the channels whose window holds j (the same window, mirrored). What is left is arithmetic on one element.
#pragma once

#include "math/scalar_math.h"

namespace handgrad {

// beta = 3/4, the paper's choice and torch's default, needs two roots instead of a logarithm and an exponential.
template <class T, bool BetaIsThreeQuarters>
struct LocalResponseNorm {
  T alpha_over_size, beta, k;

  LocalResponseNorm(int64_t size, double alpha, double beta_value, double k_value)
      : alpha_over_size(static_cast<T>(alpha / static_cast<double>(size))),
        beta(static_cast<T>(beta_value)),
        k(static_cast<T>(k_value)) {}

  // All that is needed of d: d^-beta and 1 / d.
  struct Factors {
    T shrink, inverse;
  };

  // Given the sum of squares over W(c).
  HANDGRAD_MATH Factors factors(T sum_of_squares) const {
    const T d = k + alpha_over_size * sum_of_squares;
    if constexpr (BetaIsThreeQuarters) {
      const T quarter = inverse_square_root(square_root(d)), half = quarter * quarter;
      return {half * quarter, half * half};
    } else {
      return {pow(d, -beta), 1 / d};
    }
  }

  HANDGRAD_MATH T value(T x, Factors of) const { return x * of.shrink; }

  // ---- backward: g is grad_output -----------------------------------------------------------------------------------

  // What channel c sends to every channel of its window: s_c = g_c x_c d_c^(-beta - 1).
  HANDGRAD_MATH T sent(T g, T x, Factors of) const { return g * x * of.shrink * of.inverse; }

  // grad_input, given the sum of s over W*(j).
  HANDGRAD_MATH T grad_input(T g, T x, T shrink, T sum_of_sent) const { return g * shrink - kappa() * x * sum_of_sent; }

  // ---- double backward: v is grad_grad_input ------------------------------------------------------------------------

  // grad_grad_output, given the sum of v x over W(c).
  HANDGRAD_MATH T grad_grad_output(T v, T x, Factors of, T sum_of_vx) const {
    return of.shrink * (v - kappa() * x * sum_of_vx * of.inverse);
  }

  // What channel c sends to every channel of its window on the way back from grad_input.
  HANDGRAD_MATH T sent_twice(T v, T g, T x, Factors of, T sum_of_vx) const {
    return g * of.shrink * of.inverse * (v - 2 * alpha_over_size * (beta + 1) * x * sum_of_vx * of.inverse);
  }

  // The gradient of sum(v grad_input) with respect to x, given the sums of s and of sent_twice over W*(j).
  HANDGRAD_MATH T grad_input_twice(T v, T g, T x, Factors of, T sum_of_vx, T sum_of_sent, T sum_of_sent_twice) const {
    return -kappa() * (x * sum_of_sent_twice + g * of.shrink * of.inverse * sum_of_vx + v * sum_of_sent);
  }

 private:
  HANDGRAD_MATH T kappa() const { return 2 * alpha_over_size * beta; }
};

}  // namespace handgrad
