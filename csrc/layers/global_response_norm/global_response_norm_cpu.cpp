// Global response normalisation on the CPU.
#include "cpu/spatial_norm.h"
#include "global_response_norm_math.h"
#include "kinds/spatial_norm.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::spatial_norm::implement<handgrad::GlobalResponseNormOp, handgrad::SpatialOnCpu>(library);
}
