// How layers' results lie in memory: channels_last where the input does, contiguous everywhere else. Tensors are
// (batch, channels, positions…).
#pragma once

#include "abi/check.h"
#include "abi/tensor.h"

namespace handgrad {

// Strides of a dense tensor whose channels, dimension 1, are innermost: one of two dimensions at least.
inline std::vector<int64_t> channels_last_strides(Sizes sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t step = 1;
  const auto next = [&](size_t d) {
    strides[d] = step;
    step *= sizes[d];
  };
  next(1);
  for (size_t d = sizes.size(); d-- > 2;) next(d);
  next(0);
  return strides;
}

inline bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() < 2) return false;
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  const std::vector<int64_t> wanted = channels_last_strides(sizes);
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] != 1 && strides[d] != wanted[d]) return false;
  }
  return true;
}

// Whether what is made of `tensor` is to be channels_last. A tensor that is both, one of a single channel, stays
// contiguous.
inline bool prefers_channels_last(const Tensor& tensor) { return !tensor.is_contiguous() && is_channels_last(tensor); }

// An uninitialised tensor that lies in memory as `model` does, with its dtype and device.
inline Tensor empty_in_layout_of(const Tensor& model, Sizes sizes) {
  const std::vector<int64_t> strides =
      prefers_channels_last(model) ? channels_last_strides(sizes) : contiguous_strides(sizes);
  return empty_strided(sizes, Sizes(strides.data(), strides.size()), model);
}
inline Tensor empty_in_layout_of(const Tensor& model) { return empty_in_layout_of(model, model.sizes()); }

// A gradient of `tensor`, or what stands for one that nobody asked for.
inline Tensor empty_gradient(bool wanted, const Tensor& tensor) {
  return wanted ? empty_in_layout_of(tensor) : empty_placeholder(tensor);
}
// The same of an argument that may be of integers, which have no gradient: what stands for it is then like `inputs`.
inline Tensor empty_gradient_beside(bool wanted, const Tensor& tensor, const Tensor& inputs) {
  return is_floating(tensor.scalar_type()) ? empty_gradient(wanted, tensor) : empty_placeholder(inputs);
}

}  // namespace handgrad
