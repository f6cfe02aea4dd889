// Multi-similarity loss on CUDA devices.
#include "kinds/set_loss.cuh"
#include "multi_similarity_loss_math.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::set_loss::implement<handgrad::MultiSimilarityLossOp, handgrad::SetsOnCuda>(library);
}
