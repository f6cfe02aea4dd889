// A program for the AddressSanitizer build: its argument says which memory is left.
#include <emulator/portable.h>

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <vector>

using handgrad::emulator::launch;

namespace {

__global__ void global_memory(const float* x, float* out) { out[threadIdx.x] = x[threadIdx.x + 1]; }

__global__ void through_accessor(const float* x, float* out) {
  handgrad::emulator::check_access(x + threadIdx.x + 1, sizeof(float), alignof(float));
  out[threadIdx.x] = x[threadIdx.x + 1];
}

__device__ float* row_of(float* memory, int row) { return memory + row * 32; }

__global__ void static_shared(float* out) {
  __shared__ float memory[32];
  row_of(memory, 1)[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = memory[threadIdx.x];
}

__global__ void dynamic_shared(float* out) {
  HANDGRAD_DYNAMIC_SHARED(float, memory);
  memory[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = memory[threadIdx.x + 1];
}

// Right in all it does: fibers, barriers and their stacks must not look wrong to the sanitizer.
__global__ void nothing_wrong(const float* x, float* out) {
  __shared__ float memory[32];
  float local[8];
  for (int i = 0; i < 8; ++i) local[i] = x[threadIdx.x] * static_cast<float>(i);
  memory[threadIdx.x] = local[threadIdx.x % 8];
  __syncthreads();
  out[threadIdx.x] = memory[31 - threadIdx.x] + __shfl_xor_sync(0xffffffffu, local[threadIdx.x / 8], 1);
}

__global__ void waits_for_ever(float* out) {
  if (threadIdx.x < 16) __syncthreads();
  out[threadIdx.x] = 1.0f;
}

}  // namespace

int main(int, char** arguments) {
  const std::vector<float> x(32, 1.0f);
  std::vector<float> out(32);
  const char* which = arguments[1];
  const auto is = [&](const char* name) { return std::strcmp(which, name) == 0; };
  try {
    if (is("global_memory")) launch(which, 1, 32, 0, {}, global_memory, x.data(), out.data());
    if (is("through_accessor")) launch(which, 1, 32, 0, {}, through_accessor, x.data(), out.data());
    if (is("static_shared")) launch(which, 1, 32, 0, {}, static_shared, out.data());
    if (is("dynamic_shared")) launch(which, 1, 32, 32 * sizeof(float), {}, dynamic_shared, out.data());
    if (is("nothing_wrong")) {
      for (int time = 0; time < 3; ++time) {
        launch(which, 4, 32, 0, {}, nothing_wrong, x.data(), out.data());
        // Fibers that were given up are used again.
        try {
          launch("waits_for_ever", 1, 32, 0, {}, waits_for_ever, out.data());
          return 3;
        } catch (const std::runtime_error&) {
        }
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  return 0;
}
