// Tversky loss on the CPU: an overlap loss with this formula.
#include "tversky_loss_math.h"

#include "kinds/overlap_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::overlap_loss::implement<handgrad::TverskyLossOp, handgrad::overlap_loss::OnCpu>(library);
}
