// IoU of all pairs of rotated boxes on the CPU: a box matrix with this formula.
#include "rotated_box_iou_math.h"

#include "cpu/box_matrix.h"
#include "kinds/box_matrix.h"
#include "kinds/rotated_box_pair.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::box_matrix::implement<handgrad::RotatedBoxIoUOp, handgrad::MatrixOnCpu>(library);
}
