// Wing loss on CUDA devices: an elementwise loss with this formula.
#include "wing_loss_math.h"

#include "cuda/elementwise.cuh"
#include "kinds/elementwise_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::elementwise_loss::implement<handgrad::WingLossOp, handgrad::OnCuda>(library);
}
