// The contrastive loss of a pair whose embeddings are a squared distance s apart, and its derivatives with respect to
// their difference. Derivation: docs/losses/contrastive_loss.md.
//
//   similar      L = s / 2                           dL = difference
//   dissimilar   L = max(margin - sqrt(s), 0)^2 / 2  dL = (sqrt(s) - margin) / sqrt(s) difference, inside the margin
//   of old       L = max(margin - s, 0) / 2          dL = -difference, inside the margin
#pragma once

#include "abi/macros.h"
#include "math/scalar_math.h"

namespace handgrad {

template <class T>
struct ContrastiveLoss {
  T margin;
  bool legacy;

  // Comparisons are written so that NaN goes through them.
  HANDGRAD_MATH T value(T s, bool similar) const {
    if (similar) return s / 2;
    const T missing = margin - (legacy ? s : std::sqrt(s));
    if (missing <= 0) return 0;
    return (legacy ? missing : missing * missing) / 2;
  }

  // What the difference is multiplied by in the gradient. No direction leads out of a distance of 0: there it is 0.
  HANDGRAD_MATH T slope(T s, bool similar) const {
    if (similar) return 1;
    if (legacy) return s >= margin ? T(0) : s == s ? T(-1) : s;
    const T distance = std::sqrt(s);
    return s == 0 || distance >= margin ? T(0) : (distance - margin) / distance;
  }

  // And what its product with a direction is multiplied by, times the difference, in the derivative of that.
  HANDGRAD_MATH T bend(T s, bool similar) const {
    if (similar || legacy) return 0;
    const T distance = std::sqrt(s);
    return s == 0 || distance >= margin ? T(0) : margin / (distance * s);
  }
};

}  // namespace handgrad
