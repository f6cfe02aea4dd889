// InfoNCE: which pairs count, and how. docs/losses/info_nce_loss.md has the mathematics.
#pragma once

#include "math/pairwise.h"

namespace handgrad {

struct InfoNceLossOp {
  static constexpr const char* name = "info_nce_loss";
  static constexpr PairRule rule{PairwiseLoss::row_softmax, Positives::same_index, false};
};

}  // namespace handgrad
