// Multi-scale deformable attention on the CPU.
#include "kinds/sampled_groups_cpu.h"
#include "multi_scale_deformable_attention_host.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::multi_scale_deformable_attention::implement<handgrad::SampledGroupsOnCpu>(library);
}
