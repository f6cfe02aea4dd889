// Softmax focal loss on CUDA devices: a row loss with this formula.
#include "softmax_focal_loss_math.h"

#include "cuda/rows.cuh"
#include "kinds/row_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::row_loss::implement<handgrad::SoftmaxFocalLossOp, handgrad::RowsOnCuda>(library);
}
