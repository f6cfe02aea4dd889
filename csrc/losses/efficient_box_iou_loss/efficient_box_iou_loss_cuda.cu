// Efficient IoU loss on CUDA devices: a box loss with this formula.
#include "efficient_box_iou_loss_math.h"

#include "cuda/box_pairs.cuh"
#include "kinds/box_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::box_loss::implement<handgrad::EfficientBoxIoULossOp, handgrad::PairsOnCuda>(library);
}
