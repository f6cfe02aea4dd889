// Multi-scale structural similarity on CUDA devices.
#include "cuda/halving.cuh"
#include "cuda/windows.cuh"
#include "ms_ssim_host.h"

namespace handgrad {

struct ScalesOnCuda : WindowsOnCuda, HalvingOnCuda {};

}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::ms_ssim::implement<handgrad::ScalesOnCuda>(library);
}
