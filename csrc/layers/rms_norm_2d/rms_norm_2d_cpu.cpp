// Root mean square normalisation over channels on the CPU.
#include "cpu/norm_rows.h"
#include "kinds/channel_norm.h"
#include "rms_norm_2d_math.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::channel_norm::implement<handgrad::RmsNorm2dOp, handgrad::NormOnCpu>(library);
}
