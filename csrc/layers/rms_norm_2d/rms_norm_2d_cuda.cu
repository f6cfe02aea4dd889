// Root mean square normalisation over channels on CUDA devices.
#include "cuda/norm_launch.cuh"
#include "kinds/channel_norm.h"
#include "rms_norm_2d_math.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::channel_norm::implement<handgrad::RmsNorm2dOp, handgrad::NormOnCuda>(library);
}
