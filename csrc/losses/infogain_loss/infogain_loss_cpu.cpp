// The infogain loss on the CPU: rows whose coefficients are a matrix'.
#include "cpu/rows.h"
#include "infogain_loss_host.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::infogain::implement<handgrad::RowsOnCpu>(library); }
