// The softmax focal loss of one class with probability p, and its derivatives with respect to l = log p. Derivation:
// docs/losses/softmax_focal_loss.md.
//
//   g(l) = -q^gamma l,   q = 1 - p
#pragma once

#include <tuple>
#include <type_traits>

#include "math/powers.h"
#include "math/softmax_row.h"

namespace handgrad {

template <class T, bool GammaIsTwo>
struct SoftmaxFocalLoss {
  T gamma;

  explicit SoftmaxFocalLoss(double gamma) : gamma(static_cast<T>(gamma)) {}

  bool serves() const { return !GammaIsTwo || gamma == 2; }

  HANDGRAD_MATH T value(const ClassPoint<T>& point) const { return -powers(point.q).p0 * point.log_p; }

  HANDGRAD_MATH T slope(const ClassPoint<T>& point) const {
    const Powers<T, GammaIsTwo> power = powers(point.q);
    return power.p1 * point.p * point.finite_log_p() - power.p0;
  }

  // Near q = 0 the logarithm is -q: terms with p2 have it as the factor that goes to 0.
  HANDGRAD_MATH T curvature(const ClassPoint<T>& point) const {
    const Powers<T, GammaIsTwo> power = powers(point.q);
    const T p = point.p, l = point.finite_log_p();
    return power.p1 * p * (l + 2) - power.p2(p, p * l);
  }

 private:
  HANDGRAD_MATH Powers<T, GammaIsTwo> powers(T q) const { return Powers<T, GammaIsTwo>(q, q, gamma); }
};

// Without a discount it is the cross entropy, and needs no power.
template <class T>
struct UndiscountedLoss : ClassCrossEntropy<T> {
  bool none;

  explicit UndiscountedLoss(double gamma) : none(gamma == 0) {}
  bool serves() const { return none; }
};

// For the kind: kinds/row_loss.h.
struct SoftmaxFocalLossOp {
  static constexpr const char* name = "softmax_focal_loss";
  using Numbers = std::tuple<double>;
  // In float64 the power serves a gamma of 0 and of 2 too: for less speed, which few ask of it, half of the code.
  template <class T>
  using Formulas =
      std::conditional_t<std::is_same_v<T, float>,
                         std::tuple<UndiscountedLoss<T>, SoftmaxFocalLoss<T, true>, SoftmaxFocalLoss<T, false>>,
                         std::tuple<SoftmaxFocalLoss<T, false>>>;
};

}  // namespace handgrad
