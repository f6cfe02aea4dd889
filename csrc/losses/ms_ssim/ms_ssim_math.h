// Multi-scale structural similarity: the formula of each scale, which is math/structural_similarity.h's.
#pragma once

#include "math/structural_similarity.h"

namespace handgrad {

// The arguments that are numbers, as in the schema.
struct MsSsimNumbers {
  int64_t window_size;
  double sigma;
  int64_t scales;
  double c1, c2;

  // All scales but the coarsest are of the contrast alone.
  template <class T>
  StructuralSimilarity<T> formula(int64_t scale) const {
    return {c1, c2, scale == scales - 1};
  }
};

}  // namespace handgrad
