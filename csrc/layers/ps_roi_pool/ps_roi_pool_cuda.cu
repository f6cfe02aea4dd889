// Position-sensitive RoI pooling on CUDA devices.
#include "kinds/position_roi.cuh"
#include "ps_roi_pool_math.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::position_roi::implement<handgrad::PsRoiPoolOp, handgrad::PositionRoisOnCuda>(library);
}
