// The loss of SigLIP on the CPU: a loss of all pairs with this rule.
#include "siglip_loss_math.h"

#include "cpu/pairwise.h"
#include "kinds/pairwise_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::pairwise_loss::implement<handgrad::SiglipLossOp, handgrad::PairwiseLossOnCpu>(library);
}
