// Single elements of kernels, of memory whose type is known when they are compiled or not before they run.
#pragma once

#include "cuda/access.cuh"
#include "math/stored.h"

namespace handgrad {

template <class T>
__device__ __forceinline__ Compute<T> read(const T* from) {
  return widen(load(from));
}
template <class C>
__device__ __forceinline__ C read(const Stored<const C>& from) {
  C value = 0;
  dispatch_storage<C>(from.dtype,
                      [&](auto tag) { value = widen(load(from.template as<typename decltype(tag)::type>())); });
  return value;
}
// The same of memory that no thread writes to while the kernel runs.
template <class C>
__device__ __forceinline__ C read_constant(const Stored<const C>& from) {
  C value = 0;
  dispatch_storage<C>(
      from.dtype, [&](auto tag) { value = widen(load_constant(from.template as<typename decltype(tag)::type>())); });
  return value;
}
template <class T>
__device__ __forceinline__ void write(T* to, Compute<T> value) {
  store(to, narrow<T>(value));
}
template <class C>
__device__ __forceinline__ void write(const Stored<C>& to, C value) {
  dispatch_storage<C>(to.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    store(to.template as<T>(), narrow<T>(value));
  });
}

}  // namespace handgrad
