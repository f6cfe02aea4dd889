// Efficient IoU loss on the CPU: a box loss with this formula.
#include "efficient_box_iou_loss_math.h"

#include "cpu/box_pairs.h"
#include "kinds/box_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::box_loss::implement<handgrad::EfficientBoxIoULossOp, handgrad::PairsOnCpu>(library);
}
