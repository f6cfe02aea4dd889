// The words CUDA adds to C++: qualifiers, built-in variables, barriers, fences, cached loads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>  // libstdc++ writes __attribute__((__noinline__)) in there: it must be read before the word is a macro
#include <type_traits>

#include "../vector_types.h"
#include "engine_calls.h"

#define __host__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __restrict__ __restrict
#define __constant__ static
#define __grid_constant__
#define __launch_bounds__( \
    ...)  // not readable back from here: HANDGRAD_LAUNCH_BOUNDS and launch() in portable.h say why

// A kernel that is never launched in a translation unit must not be a warning.
#define __global__ __attribute__((unused))

#if defined(__SANITIZE_ADDRESS__)
// AddressSanitizer puts red zones around ordinary statics only. One copy for the process: blocks then run on one
// operating-system thread (engine.cpp).
#define __shared__ static
#else
// All threads of a block run as fibers of one operating-system thread, so thread-local storage is the block's storage.
// The checked build (src/checks.cpp) finds shared variables by this: they are this library's thread-local block.
#define __shared__ thread_local
#endif

// The built-in variables are true variables, rewritten by the engine whenever it goes from one thread to another.
extern HANDGRAD_EMULATOR_LOCAL constinit thread_local uint3 threadIdx;
extern HANDGRAD_EMULATOR_LOCAL constinit thread_local uint3 blockIdx;
extern HANDGRAD_EMULATOR_LOCAL constinit thread_local dim3 blockDim;
extern HANDGRAD_EMULATOR_LOCAL constinit thread_local dim3 gridDim;
inline constexpr int warpSize = 32;

// The barriers know where in the source they stand: a barrier that some threads miss is reported with its line.
inline void __syncthreads(HANDGRAD_EMULATOR_WHERE) { handgrad::emulator::block_barrier(false, {file, line}); }
inline int __syncthreads_count(int predicate, HANDGRAD_EMULATOR_WHERE) {
  return static_cast<int>(handgrad::emulator::block_barrier(predicate != 0, {file, line}).count);
}
inline int __syncthreads_and(int predicate, HANDGRAD_EMULATOR_WHERE) {
  const auto [count, threads] = handgrad::emulator::block_barrier(predicate != 0, {file, line});
  return count == threads;
}
inline int __syncthreads_or(int predicate, HANDGRAD_EMULATOR_WHERE) {
  return handgrad::emulator::block_barrier(predicate != 0, {file, line}).count != 0;
}

inline void __threadfence() { handgrad::emulator::fence(); }
inline void __threadfence_system() { handgrad::emulator::fence(); }
inline void __threadfence_block() { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
[[noreturn]] inline void __trap() { handgrad::emulator::fault("the kernel called __trap()"); }
inline void __nanosleep(unsigned) {}
inline long long clock64() { return handgrad::emulator::clock(); }

// Cache hints change nothing but speed.
template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcs(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class T>
T __ldca(const T* from) {
  return *from;
}
template <class T>
T __ldlu(const T* from) {
  return *from;
}
template <class T>
void __stcs(T* to, std::type_identity_t<T> value) {
  *to = value;
}
template <class T>
void __stcg(T* to, std::type_identity_t<T> value) {
  *to = value;
}
template <class T>
void __stwt(T* to, std::type_identity_t<T> value) {
  *to = value;
}
template <class T>
void __stwb(T* to, std::type_identity_t<T> value) {
  *to = value;
}
