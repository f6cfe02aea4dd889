// Gaussian focal loss of one element, with both derivatives. Derivation: docs/losses/gaussian_focal_loss.md.
//
//   F(x, t) = M(x, 1)                  t = 1, a peak    M(x, y) = |sigmoid(x) - y|^alpha ce(x, y)
//             (1 - t)^gamma M(x, 0)    else
//
// The modulated cross entropy M is computed once, of the hard target y that t stands for.
#pragma once

#include <tuple>

#include "math/modulated_cross_entropy.h"

namespace handgrad {

template <class T, bool Usual>
struct GaussianFocalLoss {
  // alpha = 2 and gamma = 4: what CenterNet and all after it have.
  using Hard = ModulatedCrossEntropy<T, Usual>;
  using Slope = typename Hard::Slope;
  using Curvature = typename Hard::Curvature;

  Hard hard;
  T gamma;

  GaussianFocalLoss(double alpha, double gamma_value)
      : hard{static_cast<T>(alpha)}, gamma(static_cast<T>(gamma_value)) {}

  bool serves() const { return !Usual || (hard.beta == 2 && gamma == 4); }

  HANDGRAD_MATH T value(T x, T t) const { return Weight(t, gamma).p0 * hard.value(x, peak(t)); }

  HANDGRAD_MATH Slope slope(T x, T t) const {
    const Weight weight(t, gamma);
    return {weight.p0 * hard.slope(x, peak(t)).inputs, weight.p1 * hard.value(x, peak(t))};
  }

  HANDGRAD_MATH Curvature curvature(T x, T t) const {
    const Weight weight(t, gamma);
    return {weight.p0 * hard.curvature(x, peak(t)).inputs_inputs, weight.p1 * hard.slope(x, peak(t)).inputs,
            weight.p2 * hard.value(x, peak(t))};
  }

 private:
  static HANDGRAD_MATH T peak(T t) { return t == 1 ? T(1) : T(0); }

  // (1 - t)^gamma and its derivatives, with respect to t; of a peak 1, whatever t.
  struct Weight {
    T p0, p1, p2;

    HANDGRAD_MATH Weight(T t, T gamma) {
      const T rest = 1 - t;
      T power, first, second;
      if constexpr (Usual) {
        const T square = rest * rest;
        power = square * square;
        first = -4 * square * rest;
        second = 12 * square;
      } else {
        const Powers<T, false> powers(absolute(rest), rest, gamma);
        power = powers.p0;
        first = -powers.p1;
        second = powers.p2(T(1), T(1));
      }
      p0 = t == 1 ? T(1) : power;
      p1 = t == 1 ? T(0) : first;
      p2 = t == 1 ? T(0) : second;
    }
  };
};

// For the kind: kinds/elementwise_loss.h.
struct GaussianFocalLossOp {
  static constexpr const char* name = "gaussian_focal_loss";
  using Numbers = std::tuple<double, double>;
  template <class T>
  using Formulas = std::tuple<GaussianFocalLoss<T, true>, GaussianFocalLoss<T, false>>;
};

}  // namespace handgrad
