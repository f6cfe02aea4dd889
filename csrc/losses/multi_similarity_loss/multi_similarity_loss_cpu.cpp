// Multi-similarity loss on the CPU.
#include "kinds/set_loss_cpu.h"
#include "multi_similarity_loss_math.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::set_loss::implement<handgrad::MultiSimilarityLossOp, handgrad::SetsOnCpu>(library);
}
