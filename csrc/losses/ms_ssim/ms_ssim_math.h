// One scale of multi-scale structural similarity: what its kind must know of it. The formula is
// math/structural_similarity.h's; all scales but the coarsest are of the contrast alone.
#pragma once

#include <tuple>

#include "math/structural_similarity.h"

namespace handgrad {

struct MsSsimOp {
  static constexpr const char* name = "ms_ssim";
  using Numbers = std::tuple<double, double, bool>;  // c1, c2, with_luminance
  template <class T>
  using Formulas = std::tuple<StructuralSimilarity<T>>;
};

}  // namespace handgrad
