// The few words a kernel needs that CUDA spells in a way the C++ compiler cannot follow, for both worlds. Include it
// under nvcc too; there they are CUDA's own.
//
//   HANDGRAD_DYNAMIC_SHARED(type, name);   extern __shared__ type name[];
//   HANDGRAD_LAUNCH_BOUNDS(threads);       first statement of a kernel: repeats its __launch_bounds__ for the emulator
//   handgrad::emulator::launch(...)        kernel<<<grid, block, dynamic_shared>>>(arguments...), then a check
//   handgrad::emulator::check_access(address, bytes, align), count_load(bytes), count_store(bytes)
//                                          for accessors through which kernels load and store; nothing under nvcc
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#if defined(__CUDACC__)

#include <stdexcept>
#include <string>
#include <utility>

#include "cuda_words.h"

namespace handgrad::emulator {

struct LaunchBounds {
  unsigned max_threads = 0;
  unsigned min_blocks = 0;
};

__host__ __device__ __forceinline__ void check_access(const void*, size_t, size_t) {}
__host__ __device__ __forceinline__ void count_load(size_t) {}
__host__ __device__ __forceinline__ void count_store(size_t) {}

template <class... Parameters, class... Arguments>
void launch(const char* name, dim3 grid, dim3 block, size_t dynamic_shared_bytes, LaunchBounds,
            void (*kernel)(Parameters...), Arguments&&... arguments) {
  kernel<<<grid, block, dynamic_shared_bytes>>>(static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(error));
}

}  // namespace handgrad::emulator

#else

#include "launch.h"

#define HANDGRAD_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::handgrad::emulator::dynamic_shared(alignof(type)))
#define HANDGRAD_LAUNCH_BOUNDS(threads) ::handgrad::emulator::require_launch_bounds(threads)

#endif
