// The Lovász hinge loss on the CPU: a loss of sorted errors with this formula.
#include "lovasz_hinge_loss_math.h"

#include "cpu/sorted.h"
#include "kinds/sorted_loss.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::sorted_loss::implement<handgrad::LovaszHingeLossOp, handgrad::SortedOnCpu>(library);
}
