// Structural similarity on the CPU: a window score.
#include "ssim_math.h"

#include "cpu/windows.h"
#include "kinds/window_score.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::window_score::implement<handgrad::SsimOp, handgrad::WindowsOnCpu>(library);
}
