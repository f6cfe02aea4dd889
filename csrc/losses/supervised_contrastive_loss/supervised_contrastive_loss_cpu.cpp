// Supervised contrastive loss on the CPU: a loss of all pairs with this rule.
#include "supervised_contrastive_loss_math.h"

#include "cpu/pairwise.h"
#include "kinds/pairwise_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::pairwise_loss::implement<handgrad::SupervisedContrastiveLossOp, handgrad::PairwiseLossOnCpu>(library);
}
