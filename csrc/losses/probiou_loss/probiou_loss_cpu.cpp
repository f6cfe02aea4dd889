// Probabilistic IoU loss on the CPU: a box loss with this formula.
#include "probiou_loss_math.h"

#include "cpu/box_pairs.h"
#include "kinds/box_loss.h"
#include "kinds/rotated_box_pair.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::box_loss::implement<handgrad::ProbIoULossOp, handgrad::PairsOnCpu>(library);
}
