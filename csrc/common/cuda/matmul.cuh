// Products of matrices in a kernel's scratch memory on the device, by torch's matmul.
#pragma once

#include <array>

#include "abi/tensor.h"

#if defined(HANDGRAD_EMULATED)
#include "cpu/matmul.h"
#else
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#endif

namespace handgrad {

// `groups` matrices in dense memory of T, one behind the other, from element `first` on; no memory is taken for
// elements.
template <class T>
Tensor device_matrices(const Tensor& memory, int64_t groups, int64_t rows, int64_t columns, bool transposed = false,
                       int64_t first = 0) {
  int32_t device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(memory.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(memory.get(), &device_index));
  const int64_t sizes[3] = {groups, rows, columns};
  const int64_t strides[3] = {rows * columns, transposed ? 1 : columns, transposed ? rows : 1};
  AtenTensorHandle handle = nullptr;
  // Some are only read: what says so does not make a copy of memory that is shared until it is written.
  T* const data = const_cast<T*>(static_cast<const T*>(memory.const_data_ptr()) + first);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(data, 3, sizes, strides, 0, shim_dtype<T>(),
                                                                   device_type, device_index, &handle));
  return Tensor(handle);
}

#if defined(HANDGRAD_EMULATED)
namespace emulated {

// A copy in float, or the tensor itself where it is no half type.
inline Tensor widened(const Tensor& matrix) {
  const ScalarType dtype = matrix.scalar_type();
  if (dtype != ScalarType::Half && dtype != ScalarType::BFloat16) return matrix;
  using torch::stable::detail::from;
  std::array<StableIValue, 5> stack{from(matrix), from(ScalarType::Float), from(false), from(false),
                                    from(std::optional<torch::headeronly::MemoryFormat>())};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::to", "dtype", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The CPU's matmul stands in for the device's, group by group: a batched one takes more threads than one.
inline void matmul(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  torch::stable::parallel_for(0, 2, 1, [&](int64_t begin, int64_t) {
    const OneThreadMatmul one_thread;
    for (int64_t group = 0; begin == 0 && group < out.size(0); ++group) {
      cpu_matmul(torch::stable::select(out, 0, group), widened(torch::stable::select(a, 0, group)),
                 widened(torch::stable::select(b, 0, group)), accumulate);
    }
  });
}

}  // namespace emulated
#endif

// out = a b, or out += a b, for each group of device_matrices, all of one dtype.
inline void device_matmul(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
#if defined(HANDGRAD_EMULATED)
  emulated::matmul(out, a, b, accumulate);
#else
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cuda_baddbmm_out(out.get(), out.get(), a.get(), b.get(), accumulate ? 1.0 : 0.0, 1.0));
#endif
}

// out = a b of matrices of a half type, `out` in float: tensor cores multiply them, and neither the sums nor the result
// are rounded to the half type. Nothing is accumulated: torch's product that could takes numbers, which the ABI has no
// way yet to hand over.
inline void device_half_matmul(const Tensor& out, const Tensor& a, const Tensor& b) {
#if defined(HANDGRAD_EMULATED)
  emulated::matmul(out, a, b, false);
#else
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(a), from(b), from(ScalarType::Float), from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::bmm", "dtype_out", stack.data(), TORCH_ABI_VERSION));
  // What was returned is `out` once more: taking it from the stack is what frees it.
  torch::stable::detail::to<Tensor>(stack[0]);
#endif
}

}  // namespace handgrad
