// Triplet loss on the CPU.
#include "kinds/set_loss_cpu.h"
#include "triplet_loss_math.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::set_loss::implement<handgrad::TripletLossOp, handgrad::SetsOnCpu>(library);
}
