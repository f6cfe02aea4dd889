// Probabilistic IoU of all pairs on the CPU: a box matrix with this formula.
#include "probiou_math.h"

#include "cpu/box_matrix.h"
#include "kinds/box_matrix.h"
#include "kinds/rotated_box_pair.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::box_matrix::implement<handgrad::ProbIoUOp, handgrad::MatrixOnCpu>(library);
}
