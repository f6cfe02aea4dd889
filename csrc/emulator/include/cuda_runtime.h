// What a .cu file sees of CUDA when the C++ compiler compiles it. Under nvcc this header steps aside, so that one
// include path serves both compilers.
#pragma once
#if defined(__CUDACC__)
#include_next <cuda_runtime.h>
#else

#include "emulator/atomics.h"
#include "emulator/language.h"
#include "emulator/math.h"
#include "emulator/runtime_api.h"
#include "emulator/warp.h"
#include "vector_types.h"

#endif
