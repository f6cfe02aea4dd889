// Supervised contrastive loss: which pairs count, and how. docs/losses/supervised_contrastive_loss.md has the
// mathematics.
#pragma once

#include "math/pairwise.h"

namespace handgrad {

struct SupervisedContrastiveLossOp {
  static constexpr const char* name = "supervised_contrastive_loss";
  static constexpr PairRule rule{PairwiseLoss::row_softmax, Positives::same_label, true};
};

}  // namespace handgrad
