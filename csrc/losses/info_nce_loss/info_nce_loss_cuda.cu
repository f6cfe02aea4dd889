// InfoNCE on CUDA devices: a loss of all pairs with this rule.
#include "info_nce_loss_math.h"

#include "cuda/pairwise.cuh"
#include "kinds/pairwise_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::pairwise_loss::implement<handgrad::InfoNceLossOp, handgrad::PairwiseLossOnCuda>(library);
}
