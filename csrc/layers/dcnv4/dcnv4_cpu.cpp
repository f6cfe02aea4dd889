// DCNv4 on the CPU.
#include "dcnv4_host.h"
#include "kinds/sampled_groups_cpu.h"

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::dcnv4::implement<handgrad::SampledGroupsOnCpu>(library); }
