// Wing loss on the CPU: an elementwise loss with this formula.
#include "wing_loss_math.h"

#include "cpu/elementwise.h"
#include "kinds/elementwise_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::elementwise_loss::implement<handgrad::WingLossOp, handgrad::OnCpu>(library);
}
