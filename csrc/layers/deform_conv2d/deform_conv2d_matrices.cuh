// Between the tensors of a deformable convolution and the matrices that torch's matmul takes, on CUDA devices: weights,
// output channels x positions of a chunk, and what is summed over them, the gradient of the bias.
#pragma once

#include "abi/view.h"
#include "cuda/access.cuh"
#include "cuda/reduce.cuh"
#include "deform_conv2d_chunks.cuh"

namespace handgrad::deform_conv2d {

// Element i of the weight as a matrix of each group, (output channel) x (channel, tap).
template <class T>
__device__ __forceinline__ T* weight_element(const Geometry& geometry, const View<T, 4>& weight, int64_t i) {
  const int64_t t = i % geometry.taps, row = i / geometry.taps;
  return weight.at(row / geometry.group_channels, row % geometry.group_channels, t / geometry.kernel_w,
                   t % geometry.kernel_w);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    widen_weight_kernel(Geometry geometry, View<const T, 4> from,  // [out_channels, C / groups, kernel_h, kernel_w]
                        Compute<T>* to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = thread_index();
  if (i >= geometry.out_channels * geometry.group_channels * geometry.taps) return;
  store(to + i, widen(load(weight_element(geometry, from, i))));
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    narrow_weight_kernel(Geometry geometry, const Compute<T>* from,
                         View<T, 4> to) {  // [out_channels, C / groups, kernel_h, kernel_w]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = thread_index();
  if (i >= geometry.out_channels * geometry.group_channels * geometry.taps) return;
  store(weight_element(geometry, to, i), narrow<T>(load(from + i)));
}

// Element i of a chunk of the output as a matrix, channel x position.
template <class T>
__device__ __forceinline__ T* chunk_element(const Geometry& geometry, const Chunk& chunk, const View<T, 4>& output,
                                            int64_t i) {
  const uint32_t count = static_cast<uint32_t>(chunk.count), o = static_cast<uint32_t>(i) / count;
  const Place place(geometry, chunk, static_cast<uint32_t>(i) - o * count);
  return output.at(place.n, o, place.y, place.x);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    load_chunk_kernel(Geometry geometry, Chunk chunk, View<const T, 4> from,  // [N, out_channels, out_h, out_w]
                      Compute<T>* to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = thread_index();
  if (i >= geometry.out_channels * chunk.count) return;
  store(to + i, widen(load(chunk_element(geometry, chunk, from, i))));
}

// And back, with the bias added, if there is one.
template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    store_chunk_kernel(Geometry geometry, Chunk chunk, const Compute<T>* from, View<const T, 1> bias,  // [out_channels]
                       View<T, 4> to) {  // [N, out_channels, out_h, out_w]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = thread_index();
  if (i >= geometry.out_channels * chunk.count) return;
  const uint32_t o = static_cast<uint32_t>(i) / static_cast<uint32_t>(chunk.count);
  const Compute<T> added = bias ? widen(load(bias.at(o))) : Compute<T>(0);
  store(chunk_element(geometry, chunk, to, i), narrow<T>(load(from + i) + added));
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    narrow_input_kernel(Geometry geometry, View<Compute<T>, 4> from, View<T, 4> to) {  // both [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = thread_index();
  if (i >= geometry.batch * geometry.channels * geometry.height * geometry.width) return;
  const int64_t x = i % geometry.width, row = i / geometry.width;
  const int64_t y = row % geometry.height, plane = row / geometry.height;
  const int64_t n = plane / geometry.channels, c = plane % geometry.channels;
  store(to.at(n, c, y, x), narrow<T>(load(from.at(n, c, y, x))));
}

// ---- the gradient of the bias ---------------------------------------------------------------------------------------

// Adds that of a chunk, a block for each channel, in an order that is the same on every run; in double, since there may
// be millions of positions.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks) sum_bias_kernel(Chunk chunk, const C* grads, double* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t o = blockIdx.x;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < chunk.count; i += kThreads) {
    sum += static_cast<double>(load(grads + o * chunk.count + i));
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) store(sums + o, load(sums + o) + sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    narrow_bias_kernel(Geometry geometry, const double* from, T* to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t o = thread_index();
  if (o < geometry.out_channels) store(to + o, narrow<T>(static_cast<Compute<T>>(load(from + o))));
}

}  // namespace handgrad::deform_conv2d
