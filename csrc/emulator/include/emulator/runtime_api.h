// The part of the CUDA runtime that host code around a kernel calls. There is one device; "device memory" is the
// host's, streams are names, and every call has finished when it returns.
#pragma once

#include <cstddef>

#include "../vector_types.h"
#include "engine_calls.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
};

// The attributes that launch code asks for, with CUDA's own numbers.
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxBlockDimX = 2,
  cudaDevAttrMaxBlockDimY = 3,
  cudaDevAttrMaxBlockDimZ = 4,
  cudaDevAttrMaxGridDimX = 5,
  cudaDevAttrMaxGridDimY = 6,
  cudaDevAttrMaxGridDimZ = 7,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMaxRegistersPerBlock = 12,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxRegistersPerMultiprocessor = 82,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4,
};

enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2,
};

using cudaStream_t = struct HandgradEmulatedStream*;

HANDGRAD_EMULATOR_LOCAL cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaGetDeviceCount(int* count);
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaGetDevice(int* device);
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaSetDevice(int device);
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaDeviceSynchronize();
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaStreamSynchronize(cudaStream_t stream);
// No work is ever recorded here; handgrad_emulator_set_capturing() makes it look as if it were.
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaGetLastError();
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaPeekAtLastError();
HANDGRAD_EMULATOR_LOCAL const char* cudaGetErrorString(cudaError_t error);
HANDGRAD_EMULATOR_LOCAL const char* cudaGetErrorName(cudaError_t error);
// New memory is poisoned.
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaMalloc(void** memory, size_t bytes);
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaFree(void* memory);
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaMemset(void* to, int value, size_t bytes);
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream = nullptr);
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
HANDGRAD_EMULATOR_LOCAL cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                                    cudaStream_t stream = nullptr);

namespace handgrad::emulator {
HANDGRAD_EMULATOR_LOCAL cudaError_t allow_dynamic_shared(const void* kernel, int bytes);
HANDGRAD_EMULATOR_LOCAL cudaError_t blocks_per_multiprocessor(int* blocks, int block_threads, size_t dynamic_shared);
}  // namespace handgrad::emulator

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  return handgrad::emulator::allow_dynamic_shared(reinterpret_cast<const void*>(kernel), bytes);
}
// Bounded by threads, blocks and dynamic shared memory; nothing here knows a kernel's registers.
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int block_threads,
                                                          size_t dynamic_shared) {
  return handgrad::emulator::blocks_per_multiprocessor(blocks, block_threads, dynamic_shared);
}
template <class T>
cudaError_t cudaMalloc(T** memory, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(memory), bytes);
}
