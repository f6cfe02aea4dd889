// Asymmetric loss of one element, with both derivatives. Derivation: docs/losses/asymmetric_loss.md.
//
//   F = -t A - (1 - t) B      A = q^gamma_pos log p        p = sigmoid(x), q = 1 - p
//                             B = r^gamma_neg log(1 - r)   r = max(p - clip, 0)
//
// F is linear in t, so its derivatives are those of A and B, weighted with t, 1 - t and their slopes.
#pragma once

#include <limits>

#include "scalar_math.h"

namespace handgrad {

template <class T>
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
    const Point at(x);
    // Subtracted from 0, so that a loss of nothing is 0 and not -0.
    return factor * (0 - (t * positive(at).value + (1 - t) * negative(at).value));
  }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const Point at(x);
    const Part a = positive(at), b = negative(at);
    return {-factor * (t * a.slope + (1 - t) * b.slope), factor * (b.value - a.value)};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const Point at(x);
    const Part a = positive(at), b = negative(at);
    return {-factor * (t * a.curvature + (1 - t) * b.curvature), factor * (b.slope - a.slope), T(0)};
  }

 private:
  // A or B, and its derivatives with respect to x.
  struct Part {
    T value, slope, curvature;
  };

  // The two probabilities and their logarithms, none of them from a difference of almost equal numbers.
  struct Point {
    T p, q, log_p, log_q;

    HANDGRAD_MATH explicit Point(T x) {
      // An infinite logit is taken for the largest number: its product with a probability of 0 is then 0, the limit.
      constexpr T largest = std::numeric_limits<T>::max();
      const T size = absolute(x), distance = largest < size ? largest : size;
      const T e = exp_decay(distance), larger = 1 / (1 + e), smaller = e * larger, softness = log1p_unit(e);
      p = x >= 0 ? larger : smaller;
      q = x >= 0 ? smaller : larger;
      log_p = x >= 0 ? -softness : -distance - softness;
      log_q = x >= 0 ? -distance - softness : -softness;
    }
  };

  HANDGRAD_MATH Part positive(const Point& at) const {
    const T p = at.p, q = at.q, l = at.log_p, g = gamma_pos, power = pow(q, g);
    return {power * l, power * (q - g * p * l), -p * power * ((2 * g + 1) * q + g * l * (q - g * p))};
  }

  HANDGRAD_MATH Part negative(const Point& at) const {
    const T p = at.p, q = at.q, g = gamma_neg;
    // Below the clip nothing is lost, and nothing is learnt.
    const bool counts = p > clip;
    const T r = counts ? p - clip : T(1), pq = p * q;
    const T l = clip == 0 ? at.log_q : log(q + clip);
    // How much of 1 - r the probability q makes up.
    const T share = clip == 0 ? T(1) : q / (q + clip);
    const T power = pow(r, g), power1 = g * power / r, power2 = (g - 1) * power1 / r;
    const T slope = power1 * l * pq - power * p * share;
    const T curvature =
        power2 * l * pq * pq - 2 * power1 * p * pq * share - power * p * p * share * share + slope * (q - p);
    return {counts ? power * l : T(0), counts ? slope : T(0), counts ? curvature : T(0)};
  }
};

}  // namespace handgrad
