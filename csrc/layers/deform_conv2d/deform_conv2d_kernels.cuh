// The kernels of deformable convolution on CUDA devices.
//
// Columns are matrices of (channel, tap) x position. A thread samples all channels of one offset group at one tap and
// position, neighbouring threads neighbouring positions: so what it sums over channels, the gradients of offset and
// mask, needs no other thread and has one order.
//
// In order of appearance: between tensors and matrices; Sampled and Sample, what is sampled and where; the columns;
// Directions on the device and the gradients of samples; the scatter to the gradient of the image; the bias.
#pragma once

#include "abi/view.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "deform_conv2d_host.h"

namespace handgrad::deform_conv2d {

inline constexpr int kThreads = 256;

// Output positions [begin, begin + count) of all images in a row.
struct Chunk {
  int64_t begin, count;
};

__device__ __forceinline__ int64_t thread_index() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

// ---- between tensors and matrices -----------------------------------------------------------------------------------

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
  const int64_t o = i / chunk.count, position = chunk.begin + i % chunk.count, p = position % geometry.positions;
  return output.at(position / geometry.positions, o, p / geometry.out_w, p % geometry.out_w);
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
  const Compute<T> added = bias ? widen(load(bias.at(i / chunk.count))) : Compute<T>(0);
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

// ---- samples --------------------------------------------------------------------------------------------------------

template <class T>
struct Sampled {
  View<const T, 4> input;   // [N, C, H, W]
  View<const T, 4> offset;  // [N, 2 * offset_groups * taps, out_h, out_w]
  View<const T, 4> mask;    // [N, offset_groups * taps, out_h, out_w], or none
};

// The samples of one offset group, tap and position of a chunk.
template <class T>
struct Sample {
  using C = Compute<T>;
  // The image; the offset group and the tap; the position in the chunk, and in the image.
  int64_t n, group, tap, in_chunk, out_y, out_x;
  C mask;
  BilinearSample<C> point;

  __device__ Sample(const Geometry& geometry, const Chunk& chunk, const Sampled<T>& sampled, int64_t i)
      : Sample(geometry, sampled, i % chunk.count, (chunk.begin + i % chunk.count) / geometry.positions,
               (chunk.begin + i % chunk.count) % geometry.positions, i / chunk.count % geometry.taps,
               i / chunk.count / geometry.taps) {}

  __device__ Sample(const Geometry& geometry, const Sampled<T>& sampled, int64_t in_chunk, int64_t n, int64_t position,
                    int64_t tap, int64_t group)
      : n(n),
        group(group),
        tap(tap),
        in_chunk(in_chunk),
        out_y(position / geometry.out_w),
        out_x(position % geometry.out_w),
        mask(sampled.mask ? read(sampled.mask, plane(geometry)) : C(1)),
        point(static_cast<C>(geometry.base_y(tap, out_y)) + read(sampled.offset, 2 * plane(geometry)),
              static_cast<C>(geometry.base_x(tap, out_x)) + read(sampled.offset, 2 * plane(geometry) + 1),
              geometry.height, geometry.width) {}

  __device__ int64_t plane(const Geometry& geometry) const { return group * geometry.taps + tap; }

  // This position in a channel of the mask, of the offset, or of what is like them.
  __device__ C read(const View<const T, 4>& from, int64_t channel) const {
    return widen(load(from.at(n, channel, out_y, out_x)));
  }
  __device__ void write(const View<T, 4>& to, int64_t channel, C value) const {
    store(to.at(n, channel, out_y, out_x), narrow<T>(value));
  }

  // Where channel c stands in columns.
  __device__ int64_t column_index(const Geometry& geometry, const Chunk& chunk, int64_t c) const {
    return (c * geometry.taps + tap) * chunk.count + in_chunk;
  }

  __device__ C corner(const View<const T, 4>& image, int64_t c, int q) const {
    return point.has(q) ? widen(load(image.at(n, c, point.row + q / 2, point.column + q % 2))) : C(0);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    columns_kernel(Geometry geometry, Chunk chunk, Sampled<T> sampled, Compute<T>* columns) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = thread_index();
  if (i >= geometry.offset_groups * geometry.taps * chunk.count) return;
  const Sample<T> sample(geometry, chunk, sampled, i);
  const int64_t first = sample.group * geometry.offset_channels;
  for (int64_t c = first; c < first + geometry.offset_channels; ++c) {
    C value = 0;
    for (int q = 0; q < 4; ++q) value += sample.point.weight(q, sample.mask) * sample.corner(sampled.input, c, q);
    store(columns + sample.column_index(geometry, chunk, c), value);
  }
}

// ---- gradients of samples -------------------------------------------------------------------------------------------

// What the double backward has beside: the directions, of which those that are None have no data; the gradient h of the
// columns with respect to grad_grad_weight, if there is one; and where the changed columns go, if they are wanted.
template <class T>
struct Moved {
  using C = Compute<T>;
  View<const T, 4> input, offset, mask;
  const C* h_columns;
  C* columns;

  __device__ C h(int64_t index) const { return h_columns ? load(h_columns + index) : C(0); }
};

// How one sample's point and mask move.
template <class C>
struct SampleMotion {
  C y = 0, x = 0, mask = 0;

  template <class T>
  __device__ SampleMotion(const Geometry& geometry, const Moved<T>& moved, const Sample<T>& sample) {
    const int64_t plane = sample.plane(geometry);
    if (moved.offset) y = sample.read(moved.offset, 2 * plane), x = sample.read(moved.offset, 2 * plane + 1);
    if (moved.mask) mask = sample.read(moved.mask, plane);
  }
};

// The columns once more, and the gradients of offset and mask; for Twice the changed columns too. What is not asked for
// is null. In double that takes more registers than two blocks leave each other.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, Twice ? 1 : kMinBlocks)
    differentiate_kernel(Geometry geometry, Chunk chunk, Sampled<T> sampled, Moved<T> moved,
                         const Compute<T>* grad_columns, Compute<T>* columns,
                         View<T, 4> grad_offset,  // [N, 2 * offset_groups * taps, out_h, out_w]
                         View<T, 4> grad_mask) {  // [N, offset_groups * taps, out_h, out_w]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = thread_index();
  if (i >= geometry.offset_groups * geometry.taps * chunk.count) return;
  const Sample<T> sample(geometry, chunk, sampled, i);
  const BilinearSample<C>& point = sample.point;
  const C mask = sample.mask;
  const SampleMotion<C> v(geometry, moved, sample);
  C of_input[4] = {}, of_v[4] = {}, of_h[4] = {};
  const int64_t first = sample.group * geometry.offset_channels;
  for (int64_t c = first; c < first + geometry.offset_channels; ++c) {
    const int64_t index = sample.column_index(geometry, chunk, c);
    const C g = grad_columns ? load(grad_columns + index) : C(0), h = Twice ? moved.h(index) : C(0);
    C value = 0, change = 0;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const C pixel = sample.corner(sampled.input, c, q), weight = point.weight(q, mask);
      value += weight * pixel;
      of_input[q] += g * pixel;
      if constexpr (Twice) {
        const C v_pixel = moved.input ? sample.corner(moved.input, c, q) : C(0);
        change += point.weight_change(q, mask, v.y, v.x, v.mask) * pixel + weight * v_pixel;
        of_v[q] += g * v_pixel;
        of_h[q] += h * pixel;
      }
    }
    if (columns) store(columns + index, value);
    if (Twice && moved.columns) store(moved.columns + index, change);
  }
  const int64_t plane = sample.plane(geometry);
  if (grad_offset) {
    const C grad_y =
        Twice ? point.second_grad_y(mask, v.x, v.mask, of_input, of_v, of_h) : point.grad_y(mask, of_input);
    const C grad_x =
        Twice ? point.second_grad_x(mask, v.y, v.mask, of_input, of_v, of_h) : point.grad_x(mask, of_input);
    sample.write(grad_offset, 2 * plane, grad_y);
    sample.write(grad_offset, 2 * plane + 1, grad_x);
  }
  if (grad_mask) {
    const C grad = Twice ? point.second_grad_mask(v.y, v.x, of_input, of_v, of_h) : point.grad_mask(of_input);
    sample.write(grad_mask, plane, grad);
  }
}

// ---- the gradient of the image --------------------------------------------------------------------------------------

// What one sample adds to channel c of its corners; add(element, value).
template <class T, bool Twice, class Add>
__device__ void scatter(const Geometry& geometry, const Chunk& chunk, const Moved<T>& moved, const Sample<T>& sample,
                        const Compute<T>* grad_columns, int64_t c, const View<Compute<T>, 4>& grad_input,
                        const Add& add) {
  using C = Compute<T>;
  const int64_t index = sample.column_index(geometry, chunk, c);
  const C g = load(grad_columns + index), h = Twice ? moved.h(index) : C(0);
  const SampleMotion<C> v(geometry, moved, sample);
  for (int q = 0; q < 4; ++q) {
    if (!sample.point.has(q)) continue;
    C value = sample.point.weight(q, sample.mask) * (Twice ? h : g);
    if constexpr (Twice) value += sample.point.weight_change(q, sample.mask, v.y, v.x, v.mask) * g;
    add(grad_input.at(sample.n, c, sample.point.row + q / 2, sample.point.column + q % 2), value);
  }
}

template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    scatter_kernel(Geometry geometry, Chunk chunk, Sampled<T> sampled, Moved<T> moved, const Compute<T>* grad_columns,
                   View<Compute<T>, 4> grad_input) {  // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = thread_index();
  if (i >= geometry.offset_groups * geometry.taps * chunk.count) return;
  const Sample<T> sample(geometry, chunk, sampled, i);
  const int64_t first = sample.group * geometry.offset_channels;
  for (int64_t c = first; c < first + geometry.offset_channels; ++c) {
    scatter<T, Twice>(geometry, chunk, moved, sample, grad_columns, c, grad_input,
                      [](C* element, C value) { atomicAdd(element, value); });
  }
}

// A thread for each channel of each image that the chunk touches: an order of its own for every sum.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    scatter_in_order_kernel(Geometry geometry, Chunk chunk, Sampled<T> sampled, Moved<T> moved,
                            const Compute<T>* grad_columns, View<Compute<T>, 4> grad_input) {  // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = thread_index();
  const int64_t n = chunk.begin / geometry.positions + i / geometry.channels, c = i % geometry.channels;
  const int64_t first = n * geometry.positions, last = first + geometry.positions, end = chunk.begin + chunk.count;
  for (int64_t position = first > chunk.begin ? first : chunk.begin; position < (last < end ? last : end); ++position) {
    for (int64_t t = 0; t < geometry.taps; ++t) {
      const Sample<T> sample(geometry, sampled, position - chunk.begin, n, position - first, t,
                             c / geometry.offset_channels);
      scatter<T, Twice>(geometry, chunk, moved, sample, grad_columns, c, grad_input,
                        [](C* element, C value) { store(element, load(element) + value); });
    }
  }
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
