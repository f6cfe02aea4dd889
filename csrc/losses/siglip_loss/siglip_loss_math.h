// The loss of SigLIP: which pairs count, and how. docs/losses/siglip_loss.md has the mathematics.
#pragma once

#include "math/pairwise.h"

namespace handgrad {

struct SiglipLossOp {
  static constexpr const char* name = "siglip_loss";
  static constexpr PairRule rule{PairwiseLoss::sigmoid, Positives::same_index, false};
};

}  // namespace handgrad
