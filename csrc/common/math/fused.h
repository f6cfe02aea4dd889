// A fused multiplication and addition, on processors without one too: what torch's kernels make of levels is made so.
#pragma once

#include "abi/macros.h"

#if !defined(__CUDA_ARCH__)
#include <cmath>
#endif

namespace handgrad {

// a * b + c, rounded once. Where the processor has no instruction for it the sum is made in double, which holds every
// product of floats, and every sum of one with a number that is not smaller by 2^20.
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
