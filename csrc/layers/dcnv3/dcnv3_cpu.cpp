// DCNv3 on the CPU.
#include "dcnv3_host.h"
#include "kinds/sampled_groups_cpu.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::dcnv3::implement<handgrad::SampledGroupsOnCpu>(library); }
