// The one way to launch a kernel: on the tensor's device, on torch's current stream, with the result checked and the
// kernel's name in the error. Under nvcc it is <<<>>>; in the emulated library the emulator runs the kernel on the CPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "abi/check.h"
#include "abi/tensor.h"
#include "cuda/device.cuh"

#if !defined(HANDGRAD_EMULATED)
#include <torch/csrc/stable/accelerator.h>
#endif

namespace handgrad {

#if defined(HANDGRAD_EMULATED)

// In the emulator "the device" is the CPU, and its one stream is done when a launch returns.
class DeviceOf {
 public:
  explicit DeviceOf(const Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
};

#else

// The device of a tensor, current for as long as this lives: a kernel for cuda:1 must not run on cuda:0.
class DeviceOf {
 public:
  explicit DeviceOf(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_));
  }
  cudaStream_t stream() const { return static_cast<cudaStream_t>(stream_); }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

#endif

inline void check_cuda(cudaError_t error, const char* what) {
  // The runtime keeps an error until it is asked: the next launch, a good one, would be blamed for it.
  if (error != cudaSuccess) static_cast<void>(cudaGetLastError());
  // What a user can do something about.
  const bool foreign = error == cudaErrorInsufficientDriver || error == cudaErrorNoKernelImageForDevice;
  HANDGRAD_CHECK(error == cudaSuccess, what, ": CUDA reports: ", cudaGetErrorString(error),
                 foreign
                     ? "; with HANDGRAD_CUDA=off in the environment the reference in plain PyTorch runs instead, or "
                       "build from source for this device and driver"
                     : "");
}

namespace detail {

inline int64_t device_attribute(cudaDeviceAttr attribute, const char* what) {
  int device = 0, value = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), what);
  return value;
}

}  // namespace detail

// Of the current device: how many bytes of shared memory a block may ask for, and how many threads can run at once.
inline int64_t shared_memory_limit() {
  return detail::device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, "shared memory limit");
}
inline int64_t threads_at_once() {
  return detail::device_attribute(cudaDevAttrMultiProcessorCount, "number of multiprocessors") *
         detail::device_attribute(cudaDevAttrMaxThreadsPerMultiProcessor, "threads of a multiprocessor");
}

struct Blocks {
  // Blocks in the grid, one-dimensional: the one that may be large.
  int64_t count;
  dim3 threads;
  int64_t shared_bytes = 0;
};

// A thread for each of `count` items, in blocks of so many.
inline Blocks blocks_for(int64_t count, int threads_per_block) {
  return {(count + threads_per_block - 1) / threads_per_block, dim3(static_cast<unsigned>(threads_per_block), 1, 1), 0};
}

// Where shared memory is too small: so many blocks have scratch in global memory, each taking piece after piece.
inline constexpr int64_t kGlobalScratchBlocks = 512;
// What a block gets without asking.
inline constexpr int64_t kSharedWithoutAsking = 48 * 1024;

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const DeviceOf& device, const Blocks& blocks,
            const Arguments&... arguments) {
  if (blocks.count == 0) return;
  HANDGRAD_CHECK(blocks.count <= INT32_MAX, name, ": ", blocks.count, " blocks are more than a grid can have");
  const dim3 grid(static_cast<unsigned>(blocks.count));
  if (blocks.shared_bytes > kSharedWithoutAsking) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(blocks.shared_bytes)),
               name);
  }
#if defined(HANDGRAD_EMULATED)
  static_cast<void>(device);
  emulator::launch(name, grid, blocks.threads, static_cast<size_t>(blocks.shared_bytes), {}, kernel,
                   static_cast<Parameters>(arguments)...);
#else
  // clang-format off
  kernel<<<grid, blocks.threads, static_cast<size_t>(blocks.shared_bytes), device.stream()>>>(static_cast<Parameters>(arguments)...);
  // clang-format on
  check_cuda(cudaGetLastError(), name);
#endif
}

}  // namespace handgrad
