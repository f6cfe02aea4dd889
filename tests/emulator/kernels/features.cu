// One kernel for each part of the language that barriers.cu does not use.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "call.h"

namespace {

__global__ void histogram(const unsigned char* x, unsigned* counts, int64_t count) {
  HANDGRAD_DYNAMIC_SHARED(unsigned, bins);
  for (unsigned b = threadIdx.x; b < 256; b += blockDim.x) bins[b] = 0;
  __syncthreads();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    atomicAdd(&bins[x[i]], 1u);
  }
  __syncthreads();
  for (unsigned b = threadIdx.x; b < 256; b += blockDim.x) atomicAdd(&counts[b], bins[b]);
}

// Votes, matches and the other meetings of a warp, one answer per thread.
__global__ void meetings(const int* x, unsigned* out) {
  const int value = x[threadIdx.x];
  const unsigned all = 0xffffffffu;
  unsigned* mine = out + threadIdx.x * 12;
  mine[0] = __ballot_sync(all, value > 3);
  mine[1] = __any_sync(all, value > 6);
  mine[2] = __all_sync(all, value >= 0);
  mine[3] = __match_any_sync(all, value);
  mine[4] = static_cast<unsigned>(__reduce_add_sync(all, value));
  mine[5] = static_cast<unsigned>(__shfl_sync(all, value, 5, 8));
  mine[6] = static_cast<unsigned>(__shfl_up_sync(all, value, 3));
  mine[7] = static_cast<unsigned>(__shfl_xor_sync(all, value, 9));
  // Half a warp at a time: the other half is elsewhere.
  mine[8] = threadIdx.x % 32 < 16 ? __reduce_max_sync(0x0000ffffu, static_cast<unsigned>(value))
                                  : __ballot_sync(0xffff0000u, value & 1);
  mine[9] = static_cast<unsigned>(__syncthreads_count(value > 3));
  mine[10] =
      static_cast<unsigned>(__syncthreads_or(value == 7)) + 2u * static_cast<unsigned>(__syncthreads_and(value < 9));
  // Lanes that have returned are not waited for in a vote.
  if (threadIdx.x % 32 >= 24) {
    mine[11] = 0;
    return;
  }
  mine[11] = __ballot_sync(all, 1);
}

__global__ void atomics(int* integers, float* f, double* d, __half* h, __nv_bfloat16* b, unsigned short* word,
                        unsigned long long* wide) {
  atomicAdd(&integers[0], 1);
  atomicSub(&integers[1], 2);
  atomicMax(&integers[2], static_cast<int>(threadIdx.x));
  atomicMin(&integers[3], -static_cast<int>(threadIdx.x));
  atomicAnd(&integers[4], ~(1 << (threadIdx.x % 8)));
  atomicOr(&integers[5], 1 << (threadIdx.x % 8));
  atomicAdd(f, 0.5f);
  atomicAdd(d, 0.25);
  atomicAdd(h, __float2half(1.0f));
  atomicAdd(b, __float2bfloat16(1.0f));
  atomicAdd(wide, 1ull << 40);
  atomicMax(wide + 1, static_cast<unsigned long long>(threadIdx.x) << 40);
  // What is built on CAS: an addition.
  unsigned short seen = *const_cast<volatile unsigned short*>(word), before;
  do {
    before = seen;
    seen = atomicCAS(word, before, static_cast<unsigned short>(before + 3));
  } while (seen != before);
}

// Each thread's coordinates, in three dimensions.
__global__ void coordinates(int* out) {
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = static_cast<int>(
      threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * (blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z));
}

__global__ void scale(const float4* x, float4* out, float factor, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  handgrad::emulator::check_access(x + i, sizeof(float4), alignof(float4));
  handgrad::emulator::count_load(sizeof(float4));
  const float4 v = __ldg(x + i);
  handgrad::emulator::count_store(sizeof(float4));
  out[i] = make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
}

__global__ void convert(const float* x, __half* half_out, __nv_bfloat16* bfloat16_out, float* back, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  half_out[i] = __float2half(x[i]);
  bfloat16_out[i] = __float2bfloat16(x[i]);
  back[i] = __half2float(half_out[i]);
}

__global__ void mathematics(const float* x, float* out, int count) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= count) return;
  const float v = x[i];
  float* mine = out + i * 12;
  mine[0] = expf(v);
  mine[1] = log1pf(v);
  mine[2] = powf(v, 0.75f);
  mine[3] = rsqrtf(v);
  mine[4] = fmaf(v, v, 1.0f);
  mine[5] = fmaxf(v, 1.0f) + min(v, 0.5f);
  mine[6] = __fdividef(1.0f, v);
  mine[7] = __int_as_float(__float_as_int(v) ^ 0x00400000);
  mine[8] = static_cast<float>(__popc(i) + 100 * __clz(i + 1) + 10000 * __ffs(i));
  mine[9] = static_cast<float>(isnan(v * __int_as_float(0x7f800000) * 0.0f)) + tanhf(v);
  mine[10] = static_cast<float>(exp(static_cast<double>(v)) - 1.0);
  mine[11] = static_cast<float>(__float2int_rn(v * 3e9f));
}

}  // namespace

ENTRY(run_histogram, (const unsigned char* x, unsigned* counts, int64_t count),
      launch("histogram", 7, 128, 256 * sizeof(unsigned), {}, histogram, x, counts, count))
ENTRY(run_meetings, (const int* x, unsigned* out), launch("meetings", 1, 64, 0, {}, meetings, x, out))
ENTRY(run_atomics,
      (int* integers, float* f, double* d, __half* h, __nv_bfloat16* b, unsigned short* word, unsigned long long* wide),
      launch("atomics", 5, 96, 0, {}, atomics, integers, f, d, h, b, word, wide))
ENTRY(run_coordinates, (int* out), launch("coordinates", dim3(3, 2, 4), dim3(4, 3, 2), 0, {}, coordinates, out))
ENTRY(run_scale, (const float* x, float* out, float factor, int64_t count),
      launch("scale", static_cast<unsigned>((count + 127) / 128), 128, 0, {}, scale, reinterpret_cast<const float4*>(x),
             reinterpret_cast<float4*>(out), factor, count))
ENTRY(run_convert, (const float* x, __half* h, __nv_bfloat16* b, float* back, int count),
      launch("convert", (count + 255) / 256, 256, 0, {}, convert, x, h, b, back, count))
ENTRY(run_mathematics, (const float* x, float* out, int count),
      launch("mathematics", 1, 256, 0, {}, mathematics, x, out, count))
