// The words a kernel needs that CUDA spells in a way the C++ compiler cannot follow, for both: under nvcc they are
// CUDA's own, in the emulated library the emulator's.
#pragma once

#include <cuda_runtime.h>

#if defined(HANDGRAD_EMULATED)

#include <emulator/portable.h>

#define HANDGRAD_DEVICE_KEY CPU

#else

// One symbol for all types: extern arrays of one name must not differ in type between instances of a template.
#define HANDGRAD_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char handgrad_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(handgrad_dynamic_shared)
// First statement of a kernel: repeats its __launch_bounds__, which the emulator cannot see.
#define HANDGRAD_LAUNCH_BOUNDS(threads) static_cast<void>(0)

#define HANDGRAD_DEVICE_KEY CUDA

#endif

namespace handgrad {

// The second number of every __launch_bounds__. Told to fit two blocks, ptxas takes the registers that a kernel needs;
// told nothing, it may spill a few of them to fit more blocks.
inline constexpr int kMinBlocks = 2;

}  // namespace handgrad
