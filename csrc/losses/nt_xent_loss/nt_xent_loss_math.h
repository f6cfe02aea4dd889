// NT-Xent: which pairs count, and how. docs/losses/nt_xent_loss.md has the mathematics.
#pragma once

#include "math/pairwise.h"

namespace handgrad {

struct NtXentLossOp {
  static constexpr const char* name = "nt_xent_loss";
  static constexpr PairRule rule{PairwiseLoss::row_softmax, Positives::other_view, true};
};

}  // namespace handgrad
