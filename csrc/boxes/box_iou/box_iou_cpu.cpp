// IoU of all pairs on the CPU: a box matrix with this formula.
#include "box_iou_math.h"

#include "cpu/box_matrix.h"
#include "kinds/box_matrix.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::box_matrix::implement<handgrad::BoxIoUOp, handgrad::MatrixOnCpu>(library);
}
