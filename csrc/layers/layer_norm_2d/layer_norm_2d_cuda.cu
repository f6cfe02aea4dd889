// Layer normalisation over channels on CUDA devices.
#include "cuda/norm_launch.cuh"
#include "kinds/channel_norm.h"
#include "layer_norm_2d_math.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::channel_norm::implement<handgrad::LayerNorm2dOp, handgrad::NormOnCuda>(library);
}
