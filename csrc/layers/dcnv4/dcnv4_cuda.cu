// DCNv4 on CUDA devices.
#include "dcnv4_host.h"
#include "kinds/sampled_groups.cuh"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::dcnv4::implement<handgrad::SampledGroupsOnCuda>(library);
}
