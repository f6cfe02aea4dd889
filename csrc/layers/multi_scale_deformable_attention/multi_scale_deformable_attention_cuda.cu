// Multi-scale deformable attention on CUDA devices.
#include "kinds/sampled_groups.cuh"
#include "multi_scale_deformable_attention_host.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::multi_scale_deformable_attention::implement<handgrad::SampledGroupsOnCuda>(library);
}
