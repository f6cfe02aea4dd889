// Multi-scale structural similarity on the CPU.
#include "cpu/halving.h"
#include "cpu/windows.h"
#include "ms_ssim_host.h"

namespace handgrad {

struct ScalesOnCpu : WindowsOnCpu, HalvingOnCpu {};

}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::ms_ssim::implement<handgrad::ScalesOnCpu>(library); }
