// What kernels of the sums are handed: how the work is cut, and the tensors; and how these are read and written.
#pragma once

#include "cuda/access.cuh"
#include "overlap_sums_host.h"

namespace handgrad::overlap_sums {

struct Geometry {
  int64_t positions, chunks, chunk_positions, items;  // items: chunks of all samples
  // Positions of a tile; the distance of its lines, odd, so that walks along either are free of bank conflicts.
  int32_t width, pitch, channels;
  // How many numbers of C a block's scratch has, and how many arrays of tiles are in it.
  int64_t scratch;
  bool channels_innermost;
};

template <class C>
struct Operands {
  StoredView<const C, 3> inputs, targets, direction1, direction2;
  StoredView<C, 3> grad_inputs, grad_targets;
  const C* grad_sums;  // [N, C, 3]
  double* partial;     // [N, chunks, C, 3]; null: nothing is summed
  C ignored;
  Activation activation;
  bool squared, classes;
};

template <class C>
__device__ __forceinline__ C read(const StoredView<const C, 3>& view, int64_t offset) {
  C value = 0;
  dispatch_storage<C>(view.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    value = widen(load(view.first.template as<T>() + offset));
  });
  return value;
}
template <class C>
__device__ __forceinline__ void write(const StoredView<C, 3>& view, int64_t offset, C value) {
  dispatch_storage<C>(view.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    store(view.first.template as<T>() + offset, narrow<T>(value));
  });
}
// A target, which may be an integer.
template <class C>
__device__ __forceinline__ C read_number(const StoredView<const C, 3>& view, int64_t offset) {
  const void* data = view.first.data;
  switch (view.first.dtype) {
    case ScalarType::Long: return static_cast<C>(load(static_cast<const int64_t*>(data) + offset));
    case ScalarType::Int: return static_cast<C>(load(static_cast<const int32_t*>(data) + offset));
    case ScalarType::Short: return static_cast<C>(load(static_cast<const int16_t*>(data) + offset));
    case ScalarType::Char: return static_cast<C>(load(static_cast<const int8_t*>(data) + offset));
    case ScalarType::Bool:
    case ScalarType::Byte: return static_cast<C>(load(static_cast<const uint8_t*>(data) + offset));
    default: return read(view, offset);
  }
}

}  // namespace handgrad::overlap_sums
