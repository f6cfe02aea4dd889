// Loads and stores of kernels: single elements, and whole 16-byte vectors. Through these the emulator counts bytes and
// sees misaligned access.
#pragma once

#include "cuda/device.cuh"
#include "math/convert.h"

namespace handgrad {

template <class T>
__device__ __forceinline__ T load(const T* from) {
#if defined(HANDGRAD_EMULATED)
  emulator::check_access(from, sizeof(T), alignof(T));
  emulator::count_load(sizeof(T));
#endif
  return *from;
}

// The same of memory that the kernel does not write, which it therefore need not load in the order of its stores.
template <class T>
__device__ __forceinline__ T load_constant(const T* from) {
#if defined(HANDGRAD_EMULATED)
  return load(from);
#else
  if constexpr (sizeof(T) == 2) {
    const unsigned short bits = __ldg(reinterpret_cast<const unsigned short*>(from));
    return __builtin_bit_cast(T, bits);
  } else {
    return __ldg(from);
  }
#endif
}

template <class T>
__device__ __forceinline__ void store(T* to, T value) {
#if defined(HANDGRAD_EMULATED)
  emulator::check_access(to, sizeof(T), alignof(T));
  emulator::count_store(sizeof(T));
#endif
  *to = value;
}

// Width elements that are moved by one instruction.
template <class T, int Width>
struct alignas(sizeof(T) * Width) Vector {
  T lane[Width];
};

template <int Width, class T>
__device__ __forceinline__ void load_vector(const T* from, Compute<T> (&to)[Width]) {
  const Vector<T, Width> vector = load(reinterpret_cast<const Vector<T, Width>*>(from));
#pragma unroll
  for (int lane = 0; lane < Width; ++lane) to[lane] = widen(vector.lane[lane]);
}

template <int Width, class T>
__device__ __forceinline__ void store_vector(const Compute<T> (&from)[Width], T* to) {
  Vector<T, Width> vector;
#pragma unroll
  for (int lane = 0; lane < Width; ++lane) vector.lane[lane] = narrow<T>(from[lane]);
  store(reinterpret_cast<Vector<T, Width>*>(to), vector);
}

}  // namespace handgrad
