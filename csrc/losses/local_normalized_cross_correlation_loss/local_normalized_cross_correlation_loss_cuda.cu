// Local normalised cross-correlation on CUDA devices: a window score.
#include "local_normalized_cross_correlation_loss_math.h"

#include "cuda/windows.cuh"
#include "kinds/window_score.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::window_score::implement<handgrad::LocalNormalizedCrossCorrelationLossOp, handgrad::WindowsOnCuda>(library);
}
