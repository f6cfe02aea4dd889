// Products of matrices in a kernel's scratch memory on the device, by torch's matmul.
#pragma once

#include "abi/tensor.h"

#if defined(HANDGRAD_EMULATED)
#include "cpu/matmul.h"
#else
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#endif

namespace handgrad {

// `groups` matrices in dense memory of C, one behind the other, from element `first` on; no memory is taken for
// elements.
template <class C>
Tensor device_matrices(const Tensor& memory, int64_t groups, int64_t rows, int64_t columns, bool transposed = false,
                       int64_t first = 0) {
  int32_t device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(memory.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(memory.get(), &device_index));
  const int64_t sizes[3] = {groups, rows, columns};
  const int64_t strides[3] = {rows * columns, transposed ? 1 : columns, transposed ? rows : 1};
  const int32_t dtype = sizeof(C) == sizeof(double) ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  AtenTensorHandle handle = nullptr;
  // Some are only read: what says so does not make a copy of memory that is shared until it is written.
  C* const data = const_cast<C*>(static_cast<const C*>(memory.const_data_ptr()) + first);
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_create_tensor_from_blob(data, 3, sizes, strides, 0, dtype, device_type, device_index, &handle));
  return Tensor(handle);
}

// out = a b, or out += a b, for each group of device_matrices.
inline void device_matmul(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
#if defined(HANDGRAD_EMULATED)
  // The CPU's matmul stands in for the device's, group by group: a batched one takes more threads than one.
  torch::stable::parallel_for(0, 2, 1, [&](int64_t begin, int64_t) {
    const OneThreadMatmul one_thread;
    for (int64_t group = 0; begin == 0 && group < out.size(0); ++group) {
      cpu_matmul(torch::stable::select(out, 0, group), torch::stable::select(a, 0, group),
                 torch::stable::select(b, 0, group), accumulate);
    }
  });
#else
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cuda_baddbmm_out(out.get(), out.get(), a.get(), b.get(), accumulate ? 1.0 : 0.0, 1.0));
#endif
}

}  // namespace handgrad
