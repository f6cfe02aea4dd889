// Multi-similarity loss on the CPU.
#include "cpu/set_loss.h"
#include "multi_similarity_loss_math.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::set_loss::implement<handgrad::MultiSimilarityLossOp, handgrad::SetsOnCpu>(library);
}
