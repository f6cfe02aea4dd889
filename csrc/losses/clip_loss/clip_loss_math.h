// The loss of CLIP: which pairs count, and how. docs/losses/clip_loss.md has the mathematics.
#pragma once

#include "math/pairwise.h"

namespace handgrad {

struct ClipLossOp {
  static constexpr const char* name = "clip_loss";
  static constexpr PairRule rule{PairwiseLoss::both_softmax, Positives::same_index, false};
};

}  // namespace handgrad
