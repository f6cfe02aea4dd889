// Generalized IoU of all pairs on CUDA devices: a box matrix with this formula.
#include "generalized_box_iou_math.h"

#include "cuda/box_matrix.cuh"
#include "kinds/box_matrix.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::box_matrix::implement<handgrad::GeneralizedBoxIoUOp, handgrad::MatrixOnCuda>(library);
}
