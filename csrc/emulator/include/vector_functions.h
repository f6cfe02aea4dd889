// CUDA's make_float4 and its kin, which the emulator keeps beside the types.
#pragma once
#if defined(__CUDACC__)
#include_next <vector_functions.h>
#else
#include "vector_types.h"
#endif
