// A fused multiplication and addition: in one instruction, or where the processor has none, by the C library or, for
// the levels of images, in double.
#pragma once

#include "abi/macros.h"

#if !defined(__CUDA_ARCH__)
#include <cmath>
#endif

namespace handgrad {

// a * b + c, rounded once.
#if defined(__CUDA_ARCH__)
HANDGRAD_MATH float fused_multiply_add(float a, float b, float c) { return ::fmaf(a, b, c); }
HANDGRAD_MATH double fused_multiply_add(double a, double b, double c) { return ::fma(a, b, c); }
#else
HANDGRAD_MATH float fused_multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
HANDGRAD_MATH double fused_multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
#endif

// The same of levels, in loops of vectors everywhere: what torch's kernels make of levels is made so. Where the
// processor has no instruction for it the sum is made in double, which holds every product of floats, and every sum of
// one with a number that is not smaller by 2^20.
HANDGRAD_MATH float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#elif defined(FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c));
#endif
}

}  // namespace handgrad
