// The two words that let one source serve the C++ compiler and nvcc.
#pragma once

// In front of every function of a *_math.h: callable from host loops and from __global__ functions, and always inlined,
// because a call inside a vectorised loop ends the vectorisation.
#if defined(__CUDACC__)
#define HANDGRAD_MATH __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define HANDGRAD_MATH inline __attribute__((always_inline))
#else
#define HANDGRAD_MATH inline
#endif

// In front of an innermost loop whose iterations are independent: the compiler need not prove it.
#define HANDGRAD_SIMD _Pragma("omp simd")
