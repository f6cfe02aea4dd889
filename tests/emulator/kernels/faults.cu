// One planted fault per kernel. Each is right CUDA to the compiler.
#include <cstdint>
#include <stdexcept>

#include "call.h"

namespace {

__global__ void nothing(int* out) { out[0] = 1; }

__global__ void __launch_bounds__(128) promises_128(int* out) {
  HANDGRAD_LAUNCH_BOUNDS(128);
  if (threadIdx.x == 0) out[0] = 1;
}

__global__ void early_return(int* out, int count) {
  if (static_cast<int>(threadIdx.x) >= count) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void two_barriers(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

__global__ void barrier_in_half(int* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = static_cast<int>(__shfl_sync(0xffffffffu, threadIdx.x, 0));
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void shuffle_after_return(int* out, int count) {
  if (static_cast<int>(threadIdx.x) >= count) return;
  out[threadIdx.x] = __shfl_down_sync(0xffffffffu, out[threadIdx.x], 1);
}

__global__ void shuffle_in_part_of_a_warp(int* out) {
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, out[threadIdx.x], 1);
}

__global__ void shuffle_in_a_branch(int* out) {
  if (threadIdx.x % 2 == 0) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, out[threadIdx.x], 2);
  __syncthreads();
}

__global__ void shuffle_without_itself(int* out) { out[threadIdx.x] = __shfl_sync(0x0000ffffu, out[threadIdx.x], 0); }

__global__ void syncwarp_without_itself(int* out) {
  __syncwarp(0xfffffffeu);
  out[threadIdx.x] = 1;
}

__global__ void syncwarp_of_two_minds(int* out) {
  if (threadIdx.x < 8) {
    __syncwarp(0x000000ffu);
  } else {
    __syncwarp(0xffffffffu);
  }
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void trap_at_five(int* out) {
  const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
  if (thread == 5) __trap();
  out[thread] = 1;
}

// The last element of each block is left out.
__global__ void leaves_one_out(float* out) {
  if (threadIdx.x + 1 < blockDim.x) out[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f;
}

__global__ void unwritten_dynamic(float* out) {
  HANDGRAD_DYNAMIC_SHARED(float, memory);
  if (threadIdx.x != 3) memory[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = memory[threadIdx.x];
}

__global__ void misaligned_accessor(const float* x, float* out) {
  handgrad::emulator::check_access(x + threadIdx.x, sizeof(float4), alignof(float4));
  out[threadIdx.x] = reinterpret_cast<const float4*>(x)->x;
}

// ---- seen by the checked build --------------------------------------------------------------------------------------

__global__ void unwritten_static(float* out) {
  __shared__ float memory[32];
  if (blockIdx.x == 0) memory[threadIdx.x] = 1.0f;  // the second block reads what the first one left
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = memory[threadIdx.x];
}

__global__ void misaligned_vector(const float* x, float* out) {
  const float4 v = *reinterpret_cast<const float4*>(x + 1);
  out[threadIdx.x] = v.x + v.w;
}

__global__ void dynamic_out_of_bounds(float* out) {
  HANDGRAD_DYNAMIC_SHARED(float, memory);
  memory[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = memory[threadIdx.x + 1];
}

__global__ void static_out_of_bounds(float* out, int past) {
  __shared__ float memory[4][32];
  memory[0][static_cast<int>(threadIdx.x) + past] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = memory[0][threadIdx.x];
}

__global__ void index_overflow(float* out, int row, int columns) {
  const int at = row * columns + static_cast<int>(threadIdx.x);
  if (at >= 0) out[threadIdx.x] = 1.0f;
}

// All threads write one element.
__global__ void global_race(int* out) { out[0] = static_cast<int>(threadIdx.x); }

// Blocks overlap by one element.
__global__ void blocks_race(int* out) {
  if (threadIdx.x == 0) out[blockIdx.x] = 1;
  if (threadIdx.x == 1) out[blockIdx.x + 1] = 1;
}

// An atomic addition and a plain one.
__global__ void half_atomic(int* out) {
  if (threadIdx.x == 0) {
    atomicAdd(out, 1);
  } else {
    *out += 1;
  }
}

}  // namespace

ENTRY(launch_nothing,
      (int* out, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, int shared,
       unsigned bounds),
      launch("nothing", dim3(gx, gy, gz), dim3(bx, by, bz), static_cast<size_t>(shared), {bounds}, nothing, out))
ENTRY(launch_allowed, (int* out, int shared),
      cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
      launch("nothing", 1, 1, static_cast<size_t>(shared), {}, nothing, out))
ENTRY(launch_promises_128, (int* out), launch("promises_128", 1, 129, 0, {}, promises_128, out))
ENTRY(launch_early_return, (int* out, int count), launch("early_return", 1, 64, 0, {}, early_return, out, count))
ENTRY(launch_two_barriers, (int* out), launch("two_barriers", 1, 64, 0, {}, two_barriers, out))
ENTRY(launch_barrier_in_half, (int* out), launch("barrier_in_half", 1, 64, 0, {}, barrier_in_half, out))
ENTRY(launch_shuffle_after_return, (int* out, int count),
      launch("shuffle_after_return", 1, 32, 0, {}, shuffle_after_return, out, count))
ENTRY(launch_shuffle_in_part_of_a_warp, (int* out),
      launch("shuffle_in_part_of_a_warp", 1, 48, 0, {}, shuffle_in_part_of_a_warp, out))
ENTRY(launch_shuffle_in_a_branch, (int* out), launch("shuffle_in_a_branch", 1, 32, 0, {}, shuffle_in_a_branch, out))
ENTRY(launch_shuffle_without_itself, (int* out),
      launch("shuffle_without_itself", 1, 32, 0, {}, shuffle_without_itself, out))
ENTRY(launch_syncwarp_without_itself, (int* out),
      launch("syncwarp_without_itself", 1, 32, 0, {}, syncwarp_without_itself, out))
ENTRY(launch_syncwarp_of_two_minds, (int* out),
      launch("syncwarp_of_two_minds", 1, 32, 0, {}, syncwarp_of_two_minds, out))
ENTRY(launch_trap_at_five, (int* out), launch("trap_at_five", dim3(2, 1, 2), dim3(4, 2), 0, {}, trap_at_five, out))
ENTRY(launch_leaves_one_out, (float* out), launch("leaves_one_out", 2, 32, 0, {}, leaves_one_out, out))
ENTRY(launch_unwritten_dynamic, (float* out),
      launch("unwritten_dynamic", 1, 32, 32 * sizeof(float), {}, unwritten_dynamic, out))
ENTRY(launch_misaligned_accessor, (const float* x, float* out),
      launch("misaligned_accessor", 1, 32, 0, {}, misaligned_accessor, x, out))
ENTRY(launch_unwritten_static, (float* out), launch("unwritten_static", 2, 32, 0, {}, unwritten_static, out))
ENTRY(launch_misaligned_vector, (const float* x, float* out),
      launch("misaligned_vector", 1, 32, 0, {}, misaligned_vector, x, out))
ENTRY(launch_dynamic_out_of_bounds, (float* out),
      launch("dynamic_out_of_bounds", 1, 32, 32 * sizeof(float), {}, dynamic_out_of_bounds, out))
ENTRY(launch_static_out_of_bounds, (float* out),
      launch("static_out_of_bounds", 1, 32, 0, {}, static_out_of_bounds, out, 1))
ENTRY(launch_index_overflow, (float* out), launch("index_overflow", 1, 32, 0, {}, index_overflow, out, 70000, 40000))
ENTRY(launch_global_race, (int* out), launch("global_race", 1, 32, 0, {}, global_race, out))
ENTRY(launch_blocks_race, (int* out), launch("blocks_race", 3, 32, 0, {}, blocks_race, out))
ENTRY(launch_half_atomic, (int* out), launch("half_atomic", 1, 32, 0, {}, half_atomic, out))

#if !defined(__CUDACC__)
extern "C" void poison(void* address, int64_t bytes) {
  handgrad::emulator::poison(address, static_cast<size_t>(bytes));
}
extern "C" int64_t find_poison(const void* address, int64_t bytes, int64_t element_bytes) {
  return handgrad::emulator::find_poison(address, static_cast<size_t>(bytes), static_cast<size_t>(element_bytes));
}

namespace {
__global__ void throws(int*) { throw std::out_of_range("thrown by a kernel"); }
}  // namespace
ENTRY(launch_throws, (int* out), launch("throws", 1, 1, 0, {}, throws, out))
ENTRY(barrier_outside, (), __syncthreads())
#endif
