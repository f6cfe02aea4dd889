// Asymmetric loss of one element, with both derivatives. Derivation: docs/losses/asymmetric_loss.md.
//
//   F = t A + (1 - t) B      A = n^gamma_pos -log p            p = sigmoid(x), n = 1 - p
//                            B = s^gamma_neg -log(1 - s)       s = max(p - clip, 0)
//
// Everything is written in e^-|x|, so that nothing overflows and neither p nor n is a difference.
#pragma once

#include <tuple>

#include "math/scalar_math.h"

namespace handgrad {

// Exponents that are both integers from 0 to 7 need only products, others a logarithm and an exponential.
template <class T, bool Products>
struct AsymmetricLoss {
  T gamma_neg, gamma_pos, clip;

  // The bits of an integer exponent, as numbers: 1 and 0, or 0 and 1. A factor of a power is chosen by arithmetic, for
  // less than a vector's choice costs.
  struct Bits {
    T one[3] = {}, zero[3] = {};

    explicit Bits(T exponent) {
      if (!is_small_integer(exponent)) return;
      for (int k = 0; k < 3; ++k) {
        one[k] = static_cast<T>(static_cast<int>(exponent) >> k & 1);
        zero[k] = 1 - one[k];
      }
    }
    static bool is_small_integer(T exponent) {
      return exponent >= 0 && exponent <= 7 && exponent == static_cast<T>(static_cast<int>(exponent));
    }
  };
  Bits neg_bits, pos_bits;

  AsymmetricLoss(double gamma_neg_value, double gamma_pos_value, double clip_value)
      : gamma_neg(static_cast<T>(gamma_neg_value)),
        gamma_pos(static_cast<T>(gamma_pos_value)),
        clip(static_cast<T>(clip_value)),
        neg_bits(gamma_neg),
        pos_bits(gamma_pos) {}

  bool serves() const { return !Products || (Bits::is_small_integer(gamma_neg) && Bits::is_small_integer(gamma_pos)); }

  struct Slope {
    T inputs, targets;
  };
  struct Curvature {
    T inputs_inputs, inputs_targets, targets_targets;
  };

  HANDGRAD_MATH T value(T x, T t) const {
    const Terms at = terms(x);
    return mix(t, at.a.value, at.b.value);
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const Terms at = terms(x);
    return {mix(t, at.a.slope, at.b.slope), at.a.value - at.b.value};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const Terms at = terms(x);
    return {mix(t, at.a.curvature, at.b.curvature), at.a.slope - at.b.slope, T(0)};
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
    const T v = power(n, gamma_pos, pos_bits), pc = gamma_pos * product(p, minus_log_p);
    const Term a{v * minus_log_p, -v * (pc + n), v * (pc * (gamma_pos * p - n) + (2 * gamma_pos + 1) * p * n)};

    const T shifted = p - clip, sum = n + clip;
    const bool easy = shifted <= 0;  // false for NaN, which then stays
    const T s = easy ? T(1) : shifted, rest = sum > 1 ? T(1) : sum;
    // -log(1 - s) / s, over what 1 - s has become in rounding, so that it tends to 1 as it should; and n / (1 - s).
    const T k = clip == 0 ? (up ? far : near) / s : (rest == 1 ? T(1) : log(rest) / (rest - 1));
    const T r = clip == 0 ? T(1) : n / rest, nk = product(n, k);
    const T w = power(s, gamma_neg, neg_bits), slope = w * p * (gamma_neg * nk + r);
    const T bend = gamma_neg * (n * (p / s) * ((gamma_neg - 1) * nk + 2 * r) + (n - p) * nk) + r * (n - p * (1 - r));
    const Term b{w * (s * k), slope, w * p * bend};
    return {a, {easy ? T(0) : b.value, easy ? T(0) : b.slope, easy ? T(0) : b.curvature}};
  }

  HANDGRAD_MATH static T power(T base, T exponent, const Bits& bits) {
    if constexpr (Products) {
      const T square = base * base, fourth = square * square;
      return (bits.one[0] * base + bits.zero[0]) * (bits.one[1] * square + bits.zero[1]) *
             (bits.one[2] * fourth + bits.zero[2]);
    } else {
      return pow(base, exponent);
    }
  }

  // t a + (1 - t) b, where an infinite loss of the class that t rules out does not count.
  HANDGRAD_MATH static T mix(T t, T a, T b) { return (t == 0 ? T(0) : t * a) + (t == 1 ? T(0) : (1 - t) * b); }

  // p log p and n log n, which tend to 0.
  HANDGRAD_MATH static T product(T share, T logarithm) { return share == 0 ? T(0) : share * logarithm; }
};

// For the kind: kinds/elementwise_loss.h.
struct AsymmetricLossOp {
  static constexpr const char* name = "asymmetric_loss";
  using Numbers = std::tuple<double, double, double>;
  template <class T>
  using Formulas = std::tuple<AsymmetricLoss<T, true>, AsymmetricLoss<T, false>>;
};

}  // namespace handgrad
