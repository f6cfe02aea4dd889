// Asymmetric loss of one element, with both derivatives. Derivation: docs/losses/asymmetric_loss.md.
//
//   F = t A + (1 - t) B      A = n^gamma_pos -log p            p = sigmoid(x), n = 1 - p
//                            B = s^gamma_neg -log(1 - s)       s = max(p - clip, 0)
//
// Everything is written in e^-|x|, so that nothing overflows and neither p nor n is a difference.
#pragma once

#include "math/scalar_math.h"

namespace handgrad {

// Exponents that are both integers from 0 to 7 need only products.
template <class T, bool Products>
struct AsymmetricLoss {
  T gamma_neg, gamma_pos, clip, factor = 1;

  AsymmetricLoss(double gamma_neg_value, double gamma_pos_value, double clip_value)
      : gamma_neg(static_cast<T>(gamma_neg_value)),
        gamma_pos(static_cast<T>(gamma_pos_value)),
        clip(static_cast<T>(clip_value)) {}

  // The same loss, times a number.
  AsymmetricLoss scaled(double by) const {
    AsymmetricLoss loss = *this;
    loss.factor *= static_cast<T>(by);
    return loss;
  }

  struct Slope {
    T inputs, targets;
  };
  struct Curvature {
    T inputs_inputs, inputs_targets, targets_targets;
  };

  HANDGRAD_MATH T value(T x, T t) const {
    const Terms at = terms(x);
    return factor * mix(t, at.a.value, at.b.value);
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const Terms at = terms(x);
    return {factor * mix(t, at.a.slope, at.b.slope), factor * (at.a.value - at.b.value)};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const Terms at = terms(x);
    return {factor * mix(t, at.a.curvature, at.b.curvature), factor * (at.a.slope - at.b.slope), T(0)};
  }

 private:
  // A and B, and their derivatives with respect to x.
  struct Term {
    T value, slope, curvature;
  };
  struct Terms {
    Term a, b;
  };

  HANDGRAD_MATH Terms terms(T x) const {
    const T distance = absolute(x), e = exp_decay(distance), near = log1p_unit(e), far = distance + near;
    const T larger = 1 / (1 + e), smaller = e * larger;
    const bool up = x >= 0;
    const T p = up ? larger : smaller, n = up ? smaller : larger, minus_log_p = up ? near : far;
    const T v = power(n, gamma_pos), pc = gamma_pos * product(p, minus_log_p);
    const Term a{v * minus_log_p, -v * (pc + n), v * (pc * (gamma_pos * p - n) + (2 * gamma_pos + 1) * p * n)};

    const T shifted = p - clip, sum = n + clip;
    const bool easy = shifted <= 0;  // false for NaN, which then stays
    const T s = easy ? T(1) : shifted, rest = sum > 1 ? T(1) : sum;
    // -log(1 - s) / s, over what 1 - s has become in rounding, so that it tends to 1 as it should; and n / (1 - s).
    const T k = clip == 0 ? (up ? far : near) / s : (rest == 1 ? T(1) : log(rest) / (rest - 1));
    const T r = clip == 0 ? T(1) : n / rest, nk = product(n, k);
    const T w = power(s, gamma_neg), slope = w * p * (gamma_neg * nk + r);
    const T bend = gamma_neg * (n * (p / s) * ((gamma_neg - 1) * nk + 2 * r) + (n - p) * nk) + r * (n - p * (1 - r));
    const Term b{w * (s * k), slope, w * p * bend};
    return {a, {easy ? T(0) : b.value, easy ? T(0) : b.slope, easy ? T(0) : b.curvature}};
  }

  HANDGRAD_MATH T power(T base, T exponent) const {
    if constexpr (Products) {
      const int bits = static_cast<int>(exponent);
      const T square = base * base;
      return (bits & 1 ? base : T(1)) * (bits & 2 ? square : T(1)) * (bits & 4 ? square * square : T(1));
    } else {
      return pow(base, exponent);
    }
  }

  // t a + (1 - t) b, where an infinite loss of the class that t rules out does not count.
  HANDGRAD_MATH static T mix(T t, T a, T b) { return (t == 0 ? T(0) : t * a) + (t == 1 ? T(0) : (1 - t) * b); }

  // p log p and n log n, which tend to 0.
  HANDGRAD_MATH static T product(T share, T logarithm) { return share == 0 ? T(0) : share * logarithm; }
};

}  // namespace handgrad
