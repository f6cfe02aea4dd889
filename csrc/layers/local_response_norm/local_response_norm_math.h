// Local response normalisation of one element, with both derivatives. Derivation and notation:
// docs/layers/local_response_norm.md.
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

  HANDGRAD_MATH T value(T x, Factors d) const { return x * d.shrink; }

  // ---- backward: g is grad_output -----------------------------------------------------------------------------------

  // s_c = g_c x_c d_c^(-beta - 1): what every channel of W(c) gets from channel c.
  HANDGRAD_MATH T s(T g, T x, Factors d) const { return g * x * d.shrink * d.inverse; }

  // Given the sum of s over W*(j).
  HANDGRAD_MATH T grad_input(T g, T x, T shrink, T sum_s) const { return g * shrink - kappa() * x * sum_s; }

  // ---- double backward: v is grad_grad_input, u the sum of v x over W(c) --------------------------------------------

  HANDGRAD_MATH T grad_grad_output(T v, T x, Factors d, T u) const {
    return d.shrink * (v - kappa() * x * u * d.inverse);
  }

  // r_c: what every channel of W(c) gets from channel c by way of the backward.
  HANDGRAD_MATH T r(T v, T g, T x, Factors d, T u) const {
    return g * d.shrink * d.inverse * (v - 2 * alpha_over_size * (beta + 1) * x * u * d.inverse);
  }

  // The gradient of sum(v grad_input) with respect to x, given the sums of s and r over W*(j).
  HANDGRAD_MATH T second_grad_input(T v, T g, T x, Factors d, T u, T sum_s, T sum_r) const {
    return -kappa() * (x * sum_r + g * d.shrink * d.inverse * u + v * sum_s);
  }

 private:
  HANDGRAD_MATH T kappa() const { return 2 * alpha_over_size * beta; }
};

}  // namespace handgrad
