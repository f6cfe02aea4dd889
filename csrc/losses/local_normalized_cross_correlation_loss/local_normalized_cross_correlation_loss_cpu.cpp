// Local normalised cross-correlation on the CPU: a window score.
#include "local_normalized_cross_correlation_loss_math.h"

#include "cpu/windows.h"
#include "kinds/window_score.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::window_score::implement<handgrad::LocalNormalizedCrossCorrelationLossOp, handgrad::WindowsOnCpu>(library);
}
