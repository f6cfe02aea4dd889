// Probabilistic IoU of all pairs on CUDA devices: a box matrix with this formula.
#include "probiou_math.h"

#include "cuda/box_matrix.cuh"
#include "kinds/box_matrix.h"
#include "kinds/rotated_box_pair.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::box_matrix::implement<handgrad::ProbIoUOp, handgrad::MatrixOnCuda>(library);
}
