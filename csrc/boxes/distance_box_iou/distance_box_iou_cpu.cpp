// Distance IoU of all pairs on the CPU: a box matrix with this formula.
#include "distance_box_iou_math.h"

#include "cpu/box_matrix.h"
#include "kinds/box_matrix.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::box_matrix::implement<handgrad::DistanceBoxIoUOp, handgrad::MatrixOnCpu>(library);
}
