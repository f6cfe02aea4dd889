// The few things host entries do with tensors, over the stable ABI.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Layout.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "abi/huge_pages.h"
#include "abi/torch_version.h"

#if defined(HANDGRAD_EMULATED)
#include <emulator/portable.h>
#endif

namespace handgrad {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

// An uninitialised tensor on the device of `like`. The shim, not torch::stable::empty: that one goes through
// the dispatcher by name, which costs more than a whole call on a small tensor.
inline Tensor empty_strided(Sizes sizes, Sizes strides, int32_t dtype, const Tensor& like) {
  int32_t device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), dtype, device_type, device_index, &handle));
  Tensor tensor(handle);
  if (device_type != aoti_torch_device_type_cpu()) return tensor;
  void* memory = nullptr;
  int64_t bytes = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(handle, &memory));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(handle, &bytes));
  prefer_huge_pages(memory, bytes);
#if defined(HANDGRAD_EMULATED)
  // NaN everywhere: what no kernel writes, a test sees.
  emulator::poison(memory, static_cast<size_t>(bytes));
#endif
  return tensor;
}

inline Tensor empty_strided(Sizes sizes, Sizes strides, const Tensor& like) {
  int32_t dtype = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  return empty_strided(sizes, strides, dtype, like);
}

inline Tensor empty_scalar(const Tensor& like) { return empty_strided(Sizes(), Sizes(), like); }

inline std::vector<int64_t> contiguous_strides(Sizes sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t step = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = step;
    step *= sizes[d] > 1 ? sizes[d] : 1;
  }
  return strides;
}

inline Tensor empty_contiguous(Sizes sizes, const Tensor& like) {
  const std::vector<int64_t> strides = contiguous_strides(sizes);
  return empty_strided(sizes, Sizes(strides.data(), strides.size()), like);
}

// True when the elements fill one stretch of memory without gap or overlap, in whatever order of dimensions.
inline bool is_dense(const Tensor& tensor) {
  if (tensor.is_contiguous()) return true;
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  const int64_t numel = tensor.numel();
  if (numel <= 1) return true;
  // Walk the dimensions in the order of their strides: each must begin where the one before it ends.
  int64_t step = 1;
  while (step < numel) {
    size_t next = sizes.size();
    for (size_t d = 0; d < sizes.size(); ++d) {
      if (sizes[d] > 1 && strides[d] == step) next = d;
    }
    if (next == sizes.size()) return false;
    step *= sizes[next];
  }
  return true;
}

// An uninitialised tensor like `like`, which keeps its order of dimensions in memory where that is dense: what
// torch.empty_like does.
inline Tensor new_like(const Tensor& like) {
  return is_dense(like) ? empty_strided(like.sizes(), like.strides(), like) : empty_contiguous(like.sizes(), like);
}

// Memory for `count` floats or doubles on the device of `like`.
template <class C>
Tensor empty_vector(int64_t count, const Tensor& like) {
  const int64_t one = 1;
  const int32_t dtype = sizeof(C) == sizeof(double) ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  return empty_strided(Sizes(&count, 1), Sizes(&one, 1), dtype, like);
}

// Memory for `count` indices, int64, on the device of `like`.
inline Tensor empty_indices(int64_t count, const Tensor& like) {
  const int64_t one = 1;
  return empty_strided(Sizes(&count, 1), Sizes(&one, 1), aoti_torch_dtype_int64(), like);
}

// One bool for each element of a tensor of `sizes`, contiguous.
inline Tensor empty_bools(Sizes sizes, const Tensor& like) {
  const std::vector<int64_t> strides = contiguous_strides(sizes);
  return empty_strided(sizes, Sizes(strides.data(), strides.size()), aoti_torch_dtype_bool(), like);
}

// Zeros in place of what is there.
inline void fill_zero(const Tensor& tensor) { STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(tensor.get())); }

// Stands for a gradient that nobody asked for.
inline Tensor empty_placeholder(const Tensor& like) {
  const int64_t zero = 0, one = 1;
  return empty_strided(Sizes(&zero, 1), Sizes(&one, 1), like);
}

}  // namespace handgrad
