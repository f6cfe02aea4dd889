// Jaccard loss on the CPU: an overlap loss with this formula.
#include "jaccard_loss_math.h"

#include "kinds/overlap_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::overlap_loss::implement<handgrad::JaccardLossOp, handgrad::overlap_loss::OnCpu>(library);
}
