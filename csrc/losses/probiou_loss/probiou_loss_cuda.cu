// Probabilistic IoU loss on CUDA devices: a box loss with this formula.
#include "probiou_loss_math.h"

#include "cuda/box_pairs.cuh"
#include "kinds/box_loss.h"
#include "kinds/rotated_box_pair.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::box_loss::implement<handgrad::ProbIoULossOp, handgrad::PairsOnCuda>(library);
}
