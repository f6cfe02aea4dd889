// The Lovász hinge loss on CUDA devices: a loss of sorted errors with this formula.
#include "lovasz_hinge_loss_math.h"

#include "cuda/sorted.cuh"
#include "kinds/sorted_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::sorted_loss::implement<handgrad::LovaszHingeLossOp, handgrad::SortedOnCuda>(library);
}
