// The infogain loss on CUDA devices: rows whose coefficients are a matrix'.
#include "cuda/rows.cuh"
#include "infogain_loss_host.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::infogain::implement<handgrad::RowsOnCuda>(library);
}
