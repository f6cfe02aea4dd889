// The runtime API of include/emulator/runtime_api.h.
#include "../include/emulator/runtime_api.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "engine.h"

namespace device = handgrad::emulator::device;

namespace {

// What CUDA calls sticky state: asked for once, then clear.
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int ordinal) {
  if (ordinal != 0) return answer(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = device::threads_per_block; break;
    case cudaDevAttrMaxBlockDimX: *value = device::block_x; break;
    case cudaDevAttrMaxBlockDimY: *value = device::block_y; break;
    case cudaDevAttrMaxBlockDimZ: *value = device::block_z; break;
    case cudaDevAttrMaxGridDimX: *value = device::grid_x; break;
    case cudaDevAttrMaxGridDimY: *value = device::grid_y; break;
    case cudaDevAttrMaxGridDimZ: *value = device::grid_z; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = device::shared_per_block; break;
    case cudaDevAttrWarpSize: *value = handgrad::emulator::kWarp; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
    case cudaDevAttrMultiProcessorCount: *value = device::multiprocessors; break;
    case cudaDevAttrL2CacheSize: *value = 50 << 20; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = device::threads_per_multiprocessor; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = device::shared_per_multiprocessor; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = device::shared_opt_in; break;
    default: return answer(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* ordinal) {
  *ordinal = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int ordinal) { return answer(ordinal == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = handgrad::emulator::is_capturing() ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice: return "cudaErrorNoKernelImageForDevice";
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
  }
  return "unrecognized error code";
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  // 256 bytes is the alignment of the device's allocator.
  void* found = std::aligned_alloc(256, (std::max<size_t>(bytes, 1) + 255) / 256 * 256);
  if (!found) return answer(cudaErrorMemoryAllocation);
  handgrad::emulator::poison(found, bytes);
  *memory = found;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { return cudaMemset(to, value, bytes); }
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}

namespace handgrad::emulator {

cudaError_t blocks_per_multiprocessor(int* blocks, int block_threads, size_t dynamic_shared) {
  if (block_threads <= 0 || block_threads > static_cast<int>(device::threads_per_block)) return cudaErrorInvalidValue;
  // A block takes whole warps, and 1 KiB of shared memory for the system beside its own.
  const size_t threads = (static_cast<size_t>(block_threads) + kWarp - 1) / kWarp * kWarp;
  const size_t by_threads = device::threads_per_multiprocessor / threads;
  const size_t by_shared = device::shared_per_multiprocessor / (dynamic_shared + 1024);
  *blocks = static_cast<int>(std::min({by_threads, by_shared, size_t{device::blocks_per_multiprocessor}}));
  return cudaSuccess;
}

}  // namespace handgrad::emulator
