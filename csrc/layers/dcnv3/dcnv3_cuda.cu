// DCNv3 on CUDA devices.
#include "dcnv3_host.h"
#include "kinds/sampled_groups.cuh"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::dcnv3::implement<handgrad::SampledGroupsOnCuda>(library);
}
