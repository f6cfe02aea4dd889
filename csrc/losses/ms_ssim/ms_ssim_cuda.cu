// One scale of multi-scale structural similarity on CUDA devices: a window score.
#include "ms_ssim_math.h"

#include "cuda/windows.cuh"
#include "kinds/window_score.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::window_score::implement<handgrad::MsSsimOp, handgrad::WindowsOnCuda>(library);
}
