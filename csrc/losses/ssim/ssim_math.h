// Structural similarity: what its kind must know of it. The formula is math/structural_similarity.h's.
#pragma once

#include <tuple>

#include "math/structural_similarity.h"

namespace handgrad {

template <class T>
struct SsimFormula : StructuralSimilarity<T> {
  HANDGRAD_MATH SsimFormula(double c1, double c2) : StructuralSimilarity<T>(c1, c2, true) {}
};

struct SsimOp {
  static constexpr const char* name = "ssim";
  using Numbers = std::tuple<double, double>;  // c1, c2
  template <class T>
  using Formulas = std::tuple<SsimFormula<T>>;
};

}  // namespace handgrad
