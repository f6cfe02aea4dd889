// Tversky loss on CUDA devices: an overlap loss with this formula.
#include "tversky_loss_math.h"

#include "kinds/overlap_loss.cuh"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::overlap_loss::implement<handgrad::TverskyLossOp, handgrad::overlap_loss::OnCuda>(library);
}
