// Kernels over the elements of tensors of one shape, the device's counterpart of elementwise.h.
//
// An op gives a functor of one element: `C operator()(const C (&in)[In], C (&out)[Out]) const`, C being float or
// double. What it returns is summed if asked for, and otherwise ignored. Here are the two ways to reach the elements:
// whole 16-byte vectors where every operand is contiguous and aligned (the usual case, and the one that memory is fast
// at), or one element at a time at any strides.
#pragma once

#include "cpu/elementwise.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace handgrad {

inline constexpr int kElementThreads = 256;
// Blocks of a sum: enough to fill any device of today, and the same on each, so that the result is too.
inline constexpr int64_t kSumBlocks = 1024;

template <class T, int In, int Out>
struct ElementPointers {
  const T* in[In];
  T* out[Out > 0 ? Out : 1];
  // Bit k: input k is one value for all elements.
  unsigned constant;
};

// Element i of every operand, one dimension at a time. Index is 32 bits wide wherever that is enough: a division of 64
// bits costs as much as the rest of a loss.
template <int N, class Index>
struct StridedIndex {
  static constexpr int kDimensions = 8;
  int dimensions;
  Index sizes[kDimensions];
  Index strides[kDimensions][N];

  __device__ void offsets(Index i, Index (&at)[N]) const {
    for (int k = 0; k < N; ++k) at[k] = 0;
    for (int d = dimensions - 1; d > 0; --d) {
      const Index outer = i / sizes[d], inside = i - outer * sizes[d];
      for (int k = 0; k < N; ++k) at[k] += inside * strides[d][k];
      i = outer;
    }
    for (int k = 0; k < N; ++k) at[k] += i * strides[0][k];
  }
};

// One vector of consecutive elements per thread and step. `total` is null if nothing is summed.
template <class T, int In, int Out, int Width, bool Sum, class Body>
__global__ void __launch_bounds__(kElementThreads, kMinBlocks)
    contiguous_elements_kernel(Body body, ElementPointers<T, In, Out> at, int64_t count, double* partial) {
  HANDGRAD_LAUNCH_BOUNDS(kElementThreads);
  using C = Compute<T>;
  C total = 0;
  const int64_t step = int64_t{gridDim.x} * kElementThreads * Width;
  for (int64_t i = (int64_t{blockIdx.x} * kElementThreads + threadIdx.x) * Width; i < count; i += step) {
    C in[In][Width], out[Out > 0 ? Out : 1][Width];
    const bool whole = i + Width <= count;
#pragma unroll
    for (int k = 0; k < In; ++k) {
      if (at.constant >> k & 1) {
        const C value = widen(load(at.in[k]));
#pragma unroll
        for (int lane = 0; lane < Width; ++lane) in[k][lane] = value;
      } else if (whole) {
        load_vector<Width>(at.in[k] + i, in[k]);
      } else {
        for (int lane = 0; lane < Width; ++lane)
          in[k][lane] = i + lane < count ? widen(load(at.in[k] + i + lane)) : C(0);
      }
    }
#pragma unroll
    for (int lane = 0; lane < Width; ++lane) {
      C element[In], result[Out > 0 ? Out : 1];
#pragma unroll
      for (int k = 0; k < In; ++k) element[k] = in[k][lane];
      const C value = body(element, result);
      if (Sum && (whole || i + lane < count)) total += value;
#pragma unroll
      for (int k = 0; k < Out; ++k) out[k][lane] = result[k];
    }
#pragma unroll
    for (int k = 0; k < Out; ++k) {
      if (whole) {
        store_vector<Width>(out[k], at.out[k] + i);
      } else {
        for (int lane = 0; lane < Width && i + lane < count; ++lane)
          store(at.out[k] + i + lane, narrow<T>(out[k][lane]));
      }
    }
  }
  if constexpr (Sum) store_block_sum<kElementThreads>(static_cast<double>(total), partial);
}

template <class T, int In, int Out, class Index, bool Sum, class Body>
__global__ void __launch_bounds__(kElementThreads, kMinBlocks)
    strided_elements_kernel(Body body, ElementPointers<T, In, Out> at, StridedIndex<In + Out, Index> index,
                            int64_t count, double* partial) {
  HANDGRAD_LAUNCH_BOUNDS(kElementThreads);
  using C = Compute<T>;
  C total = 0;
  const int64_t step = int64_t{gridDim.x} * kElementThreads;
  for (int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x; i < count; i += step) {
    Index offsets[In + Out];
    index.offsets(static_cast<Index>(i), offsets);
    C in[In], out[Out > 0 ? Out : 1];
#pragma unroll
    for (int k = 0; k < In; ++k) in[k] = widen(load(at.in[k] + offsets[k]));
    total += body(in, out);
#pragma unroll
    for (int k = 0; k < Out; ++k) store(at.out[k] + offsets[In + k], narrow<T>(out[k]));
  }
  if constexpr (Sum) store_block_sum<kElementThreads>(static_cast<double>(total), partial);
}

namespace detail {

template <class T, int In, int Out, bool Sum, class Body>
int64_t launch_elements(const char* name, Sizes shape, const Body& body, const std::array<Input<T>, In>& inputs,
                        const std::array<Output<T>, Out>& outputs, const DeviceOf& device, double* partial) {
  constexpr int N = In + Out;
  std::array<const int64_t*, N> strides;
  ElementPointers<T, In, Out> at{};
  for (int k = 0; k < In; ++k) {
    strides[k] = inputs[k].strides;
    at.in[k] = inputs[k].data;
  }
  for (int k = 0; k < Out; ++k) {
    strides[In + k] = outputs[k].strides;
    at.out[k] = outputs[k].data;
  }
  const ElementLoop<N> loop(shape, strides);
  const int64_t count = loop.numel();

  bool whole_vectors = loop.is_linear();
  for (int k = 0; whole_vectors && k < N; ++k) {
    const void* pointer = k < In ? static_cast<const void*>(at.in[k]) : static_cast<const void*>(at.out[k - In]);
    if (k < In && loop.stride(k) == 0) {
      at.constant |= 1u << k;
    } else {
      whole_vectors = loop.stride(k) == 1 && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
    }
  }
  if (whole_vectors) {
    constexpr int width = 16 / sizeof(T);
    const int64_t per_block = int64_t{kElementThreads} * width;
    int64_t blocks = (count + per_block - 1) / per_block;
    if (Sum) blocks = std::min(blocks, kSumBlocks);
    launch(name, contiguous_elements_kernel<T, In, Out, width, Sum, Body>, device, {blocks, kElementThreads}, body, at,
           count, partial);
    return blocks;
  }

  int64_t blocks = (count + kElementThreads - 1) / kElementThreads;
  if (Sum) blocks = std::min(blocks, kSumBlocks);
  const auto go = [&](auto zero) {
    using Index = decltype(zero);
    StridedIndex<N, Index> index{};
    HANDGRAD_CHECK(loop.dimensions() <= index.kDimensions, name, ": tensors whose memory takes more than ",
                   index.kDimensions, " dimensions to describe must be made contiguous first");
    index.dimensions = loop.dimensions();
    for (int d = 0; d < index.dimensions; ++d) {
      index.sizes[d] = static_cast<Index>(loop.size(d));
      for (int k = 0; k < N; ++k) index.strides[d][k] = static_cast<Index>(loop.stride(d, k));
    }
    launch(name, strided_elements_kernel<T, In, Out, Index, Sum, Body>, device, {blocks, kElementThreads}, body, at,
           index, count, partial);
  };
  // 32 bits, if no index and no offset of any operand needs more.
  if (loop.largest_offset() < INT32_MAX && count < INT32_MAX) {
    go(int32_t{});
  } else {
    go(int64_t{});
  }
  return blocks;
}

}  // namespace detail

// body on every element.
template <class T, size_t In, size_t Out, class Body>
void for_each_element(const char* name, Sizes shape, const Body& body, const std::array<Input<T>, In>& inputs,
                      const std::array<Output<T>, Out>& outputs, const DeviceOf& device) {
  detail::launch_elements<T, In, Out, false>(name, shape, body, inputs, outputs, device, nullptr);
}

// body on every element; the sum of what it returns, times `factor`, goes to `total`, a tensor of one element. In two
// stages of fixed shape, so the result is the same to the bit on every run.
template <class T, size_t In, size_t Out, class Body>
void sum_over_elements(const char* name, Sizes shape, const Body& body, const std::array<Input<T>, In>& inputs,
                       const std::array<Output<T>, Out>& outputs, const DeviceOf& device, double factor,
                       const Tensor& total) {
  const Tensor partial = empty_vector<double>(kSumBlocks, total);
  double* data = partial.mutable_data_ptr<double>();
  const int64_t blocks = detail::launch_elements<T, In, Out, true>(name, shape, body, inputs, outputs, device, data);
  launch("sum_of_partial_sums", sum_partial_kernel<T>, device, {1, kSumThreads}, data, blocks, factor,
         total.mutable_data_ptr<T>());
}

}  // namespace handgrad
