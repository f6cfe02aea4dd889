// Position-sensitive RoI pooling on the CPU.
#include "kinds/position_roi_cpu.h"
#include "ps_roi_pool_math.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::position_roi::implement<handgrad::PsRoiPoolOp, handgrad::PositionRoisOnCpu>(library);
}
