// The two words of portable.h, for CUDA's own compiler.
#pragma once

// One symbol for all types: extern arrays of one name must not differ in type between instances of a template.
#define HANDGRAD_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char handgrad_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(handgrad_dynamic_shared)
// First statement of a kernel: repeats its __launch_bounds__, which the emulator cannot see.
#define HANDGRAD_LAUNCH_BOUNDS(threads) static_cast<void>(0)
