// Products of matrices in a kernel's own scratch memory, by torch's matmul, on one thread.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "abi/tensor.h"

namespace handgrad {

// As long as one lives, matmul takes the calling thread only, so that its result does not depend on how many threads
// there are. Inside parallel_for it would anyway, were it not that torch.set_num_threads tells MKL to do as it says
// wherever it is called: MKL then cuts long sums into as many parts. So MKL, where torch has it, is told otherwise.
class OneThreadMatmul {
 public:
  OneThreadMatmul() : before_(set_threads() ? set_threads()(1) : 0) {}
  ~OneThreadMatmul() {
    if (set_threads()) set_threads()(before_);
  }
  OneThreadMatmul(const OneThreadMatmul&) = delete;
  OneThreadMatmul& operator=(const OneThreadMatmul&) = delete;

 private:
  // Sets the number of threads of MKL in the calling thread and returns what it was; 0 is MKL's own choice.
  using SetThreads = int (*)(int);
  static SetThreads set_threads() {
    static const auto function = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "MKL_Set_Num_Threads_Local"));
    return function;
  }

  int before_;
};

// A matrix in memory on the CPU that outlives it; no memory is taken for elements.
template <class C>
Tensor cpu_matrix(const C* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
  const int64_t sizes[2] = {rows, columns}, strides[2] = {row_stride, column_stride};
  const int32_t dtype = sizeof(C) == sizeof(double) ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(const_cast<C*>(data), 2, sizes, strides, 0, dtype,
                                                                   aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// out = a b, or out += a b; for kernels inside parallel_for, under a OneThreadMatmul. (The shim, not
// torch::stable::matmul: that one has no `out`.)
inline void cpu_matmul(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), accumulate ? 1.0 : 0.0, 1.0));
}

}  // namespace handgrad
