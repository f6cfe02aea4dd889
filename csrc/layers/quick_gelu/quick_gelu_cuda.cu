// QuickGELU on CUDA devices: a pointwise layer with this formula.
#include "quick_gelu_math.h"

#include "cuda/elementwise.cuh"
#include "kinds/pointwise_layer.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::pointwise_layer::implement<handgrad::QuickGeluOp, handgrad::OnCuda>(library);
}
