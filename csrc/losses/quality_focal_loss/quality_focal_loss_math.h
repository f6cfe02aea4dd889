// Quality focal loss of one element: the modulated cross entropy itself. Derivation: docs/losses/quality_focal_loss.md.
#pragma once

#include <tuple>

#include "math/modulated_cross_entropy.h"

namespace handgrad {

template <class T, bool BetaIsTwo>
struct QualityFocalLoss : ModulatedCrossEntropy<T, BetaIsTwo> {
  explicit QualityFocalLoss(double beta) : ModulatedCrossEntropy<T, BetaIsTwo>{static_cast<T>(beta)} {}

  bool serves() const { return !BetaIsTwo || this->beta == 2; }
};

// For the kind: kinds/elementwise_loss.h.
struct QualityFocalLossOp {
  static constexpr const char* name = "quality_focal_loss";
  using Numbers = std::tuple<double>;
  template <class T>
  using Formulas = std::tuple<QualityFocalLoss<T, true>, QualityFocalLoss<T, false>>;
};

}  // namespace handgrad
