// Opens the functions of csrc/common to tests/test_common.py, as loops over arrays, which is how kernels use them.
#include "cpu/transpose.h"
#include "math/angle.h"
#include "math/convert.h"
#include "math/expm1.h"
#include "math/log1p.h"
#include "math/scalar_math.h"

using handgrad::BFloat16;
using handgrad::Half;

#define UNARY(name, T)                                                   \
  extern "C" void name##_##T(const T* from, T* to, int64_t count) {      \
    HANDGRAD_SIMD                                                        \
    for (int64_t i = 0; i < count; ++i) to[i] = handgrad::name(from[i]); \
  }

#define BOTH(name) UNARY(name, float) UNARY(name, double)

BOTH(exp)
BOTH(exp_decay)
BOTH(log)
BOTH(log1p_unit)
BOTH(log1p_positive)
BOTH(expm1_decay)

#define POWER(T)                                                                     \
  extern "C" void pow_##T(const T* base, const T* exponent, T* to, int64_t count) {  \
    HANDGRAD_SIMD                                                                    \
    for (int64_t i = 0; i < count; ++i) to[i] = handgrad::pow(base[i], exponent[i]); \
  }

#define ATAN_OF_RATIO(T)                                                             \
  extern "C" void atan_of_ratio_##T(const T* a, const T* b, T* to, int64_t count) {  \
    HANDGRAD_SIMD                                                                    \
    for (int64_t i = 0; i < count; ++i) to[i] = handgrad::atan_of_ratio(a[i], b[i]); \
  }

ATAN_OF_RATIO(float)
ATAN_OF_RATIO(double)

POWER(float)
POWER(double)

#define CONVERT(T)                                                                                               \
  extern "C" void widen_##T(const T* from, float* to, int64_t count) { handgrad::load_run(from, 1, count, to); } \
  extern "C" void narrow_##T(const float* from, T* to, int64_t count) { handgrad::store_run(from, count, to, 1); }

CONVERT(Half)
CONVERT(BFloat16)

#define TRANSPOSE(T)                                                                                    \
  extern "C" void transpose_##T(const T* from, int64_t from_step, int64_t rows, int64_t columns, T* to, \
                                int64_t to_step) {                                                      \
    handgrad::transpose(from, from_step, rows, columns, to, to_step);                                   \
  }

TRANSPOSE(float)
TRANSPOSE(double)
