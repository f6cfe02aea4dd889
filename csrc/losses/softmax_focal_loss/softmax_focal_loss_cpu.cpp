// Softmax focal loss on the CPU: a row loss with this formula.
#include "softmax_focal_loss_math.h"

#include "cpu/rows.h"
#include "kinds/row_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::row_loss::implement<handgrad::SoftmaxFocalLossOp, handgrad::RowsOnCpu>(library);
}
