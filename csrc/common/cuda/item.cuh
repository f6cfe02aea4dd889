// Numbers that the host waits for.
#pragma once

#include "cuda/launch.cuh"

namespace handgrad {

// Work that is recorded, for a CUDA graph, has no results that the host could read. Asked before the first launch, so
// that the recording stays whole.
inline void check_not_captured(const char* op, const DeviceOf& device) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(device.stream(), &status), op);
  HANDGRAD_CHECK(status == cudaStreamCaptureStatusNone, op,
                 ": it must be called outside of a CUDA graph, because the size of its result depends on values, for "
                 "which the host waits; got a stream that is being captured");
}

// Element `index` of one-dimensional int64 memory on a device, once all work before it is done.
inline int64_t item(const Tensor& memory, int64_t index = 0) {
  int64_t value = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_item_int64(torch::stable::select(memory, 0, index).get(), &value));
  return value;
}

}  // namespace handgrad
