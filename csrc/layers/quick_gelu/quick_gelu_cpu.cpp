// QuickGELU on the CPU: a pointwise layer with this formula.
#include "quick_gelu_math.h"

#include "cpu/elementwise.h"
#include "kinds/pointwise_layer.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::pointwise_layer::implement<handgrad::QuickGeluOp, handgrad::OnCpu>(library);
}
