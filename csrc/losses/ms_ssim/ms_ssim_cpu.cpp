// One scale of multi-scale structural similarity on the CPU: a window score.
#include "ms_ssim_math.h"

#include "cpu/windows.h"
#include "kinds/window_score.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::window_score::implement<handgrad::MsSsimOp, handgrad::WindowsOnCpu>(library);
}
