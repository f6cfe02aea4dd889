// The words a kernel needs that CUDA spells in a way the C++ compiler cannot follow, for both: under nvcc they are
// CUDA's own, in the emulated library the emulator's.
#pragma once

#include <cuda_runtime.h>

#if defined(HANDGRAD_EMULATED)

#include <emulator/portable.h>

#define HANDGRAD_DEVICE_KEY CPU

#else

#include "../../emulator/include/emulator/cuda_words.h"

#define HANDGRAD_DEVICE_KEY CUDA

#endif

namespace handgrad {

inline constexpr int kWarpSize = 32;

// The second number of every __launch_bounds__. Told to fit two blocks, ptxas takes the registers that a kernel needs;
// told nothing, it may spill a few of them to fit more blocks.
inline constexpr int kMinBlocks = 2;

}  // namespace handgrad
