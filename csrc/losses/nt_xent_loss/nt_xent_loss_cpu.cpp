// NT-Xent on the CPU: a loss of all pairs with this rule.
#include "nt_xent_loss_math.h"

#include "cpu/pairwise.h"
#include "kinds/pairwise_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::pairwise_loss::implement<handgrad::NtXentLossOp, handgrad::PairwiseLossOnCpu>(library);
}
