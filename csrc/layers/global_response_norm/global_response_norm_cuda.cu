// Global response normalisation on CUDA devices.
#include "cuda/spatial_norm.cuh"
#include "global_response_norm_math.h"
#include "kinds/spatial_norm.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::spatial_norm::implement<handgrad::GlobalResponseNormOp, handgrad::SpatialOnCuda>(library);
}
