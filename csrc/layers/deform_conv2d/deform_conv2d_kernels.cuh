// The kernels of deformable convolution on CUDA devices.
//
// Columns are matrices of (channel, tap) x position. A thread samples all channels of one offset group at one tap and
// position, neighbouring threads neighbouring positions: so what it sums over channels, the gradients of offset and
// mask, needs no other thread and has one order.
//
// In order of appearance: Sampled and Sample, what is sampled and where; Corners, the pixels around it; the columns;
// Moved and the gradients of samples; the scatter to the gradient of the image.
#pragma once

#include "abi/view.h"
#include "cuda/access.cuh"
#include "deform_conv2d_chunks.cuh"

namespace handgrad::deform_conv2d {

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
  DeformedSample<C> point;

  // Sample i of a chunk: positions innermost, then taps, then offset groups.
  __device__ Sample(const Geometry& geometry, const Chunk& chunk, const Sampled<T>& sampled, uint32_t i)
      : Sample(geometry, chunk, sampled, i, i / static_cast<uint32_t>(chunk.count)) {}

  __device__ Sample(const Geometry& geometry, const Sampled<T>& sampled, int64_t in_chunk, const Place& place,
                    int64_t tap, int64_t group)
      : n(place.n),
        group(group),
        tap(tap),
        in_chunk(in_chunk),
        out_y(place.y),
        out_x(place.x),
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

 private:
  __device__ Sample(const Geometry& geometry, const Chunk& chunk, const Sampled<T>& sampled, uint32_t i, uint32_t outer)
      : Sample(geometry, sampled, i - outer * static_cast<uint32_t>(chunk.count),
               Place(geometry, chunk, i - outer * static_cast<uint32_t>(chunk.count)),
               outer % static_cast<uint32_t>(geometry.taps), outer / static_cast<uint32_t>(geometry.taps)) {}
};

// The corners of a sample in one channel after the other of a tensor like the image. Element is const T for one that
// the kernel reads, and does not write: such loads need not wait for stores.
template <class Element>
struct Corners {
  using C = Compute<std::remove_const_t<Element>>;
  Element* channel;
  int64_t offsets[4], stride;
  unsigned there;

  template <class T>
  __device__ Corners(const Geometry& geometry, const View<Element, 4>& image, const Sample<T>& sample, int64_t first)
      : channel(image.at(sample.n, first, 0, 0)), stride(image.strides[1]), there(sample.point.corners) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      offsets[q] = within(sample.point.row + q / 2, geometry.height) * image.strides[2] +
                   within(sample.point.column + q % 2, geometry.width) * image.strides[3];
    }
  }

  __device__ bool has(int q) const { return there >> q & 1; }
  __device__ Element* at(int q) const { return channel + offsets[q]; }
  // A corner outside the image is zero; the pixel nearest to it is read nevertheless, since a load that hangs on a
  // condition is not under way together with others.
  __device__ C read(int q) const {
    const C pixel = widen(load_constant(at(q)));
    return has(q) ? pixel : C(0);
  }
  __device__ void advance() { channel += stride; }

 private:
  __device__ static int64_t within(int64_t pixel, int64_t size) {
    return pixel < 0 ? 0 : pixel < size ? pixel : size - 1;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    columns_kernel(Geometry geometry, Chunk chunk, int64_t slice_channels, Sampled<T> sampled, Compute<T>* columns) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const Slice slice(geometry, chunk, slice_channels);
  if (slice.is_empty()) return;
  const Sample<T> sample(geometry, chunk, sampled, slice.sample);
  const int64_t first = sample.group * geometry.offset_channels + slice.first;
  Corners<const T> corners(geometry, sampled.input, sample, first);
  C weights[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) weights[q] = sample.point.weight(q, sample.mask);
  C* column = columns + sample.column_index(geometry, chunk, first);
#pragma unroll 4
  for (int64_t c = slice.first; c < slice.end; ++c) {
    C value = 0;
#pragma unroll
    for (int q = 0; q < 4; ++q) value += weights[q] * corners.read(q);
    store(column, value);
    corners.advance(), column += geometry.taps * chunk.count;
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

  __device__ C h(int64_t index) const { return h_columns ? load_constant(h_columns + index) : C(0); }
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
  const Sample<T> sample(geometry, chunk, sampled, static_cast<uint32_t>(i));
  const DeformedSample<C>& point = sample.point;
  const C mask = sample.mask;
  const SampleMotion<C> v(geometry, moved, sample);
  C of_input[4] = {}, of_v[4] = {}, of_h[4] = {};
  const int64_t first = sample.group * geometry.offset_channels;
  Corners<const T> corners(geometry, sampled.input, sample, first), v_corners(geometry, moved.input, sample, first);
  int64_t index = sample.column_index(geometry, chunk, first);
#pragma unroll(Twice ? 1 : 4)
  for (int64_t c = 0; c < geometry.offset_channels; ++c, index += geometry.taps * chunk.count) {
    const C g = grad_columns ? load_constant(grad_columns + index) : C(0), h = Twice ? moved.h(index) : C(0);
    C value = 0, change = 0;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const C pixel = corners.read(q), weight = point.weight(q, mask);
      value += weight * pixel;
      of_input[q] += g * pixel;
      if constexpr (Twice) {
        const C v_pixel = moved.input ? v_corners.read(q) : C(0);
        change += point.weight_change(q, mask, v.y, v.x, v.mask) * pixel + weight * v_pixel;
        of_v[q] += g * v_pixel;
        of_h[q] += h * pixel;
      }
    }
    if (columns) store(columns + index, value);
    if (Twice && moved.columns) store(moved.columns + index, change);
    corners.advance(), v_corners.advance();
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
    const C grad = Twice ? point.second_grad_mask(v.y, v.x, of_input, of_v, of_h) : point.grad_factor(of_input);
    sample.write(grad_mask, plane, grad);
  }
}

// ---- the gradient of the image --------------------------------------------------------------------------------------

// What one sample adds to its corners in channels [first, end); add(element, value).
template <class T, bool Twice, class Add>
__device__ void scatter(const Geometry& geometry, const Chunk& chunk, const Moved<T>& moved, const Sample<T>& sample,
                        const Compute<T>* grad_columns, int64_t first, int64_t end,
                        const View<Compute<T>, 4>& grad_input, const Add& add) {
  using C = Compute<T>;
  const SampleMotion<C> v(geometry, moved, sample);
  Corners<C> corners(geometry, grad_input, sample, first);
  C weights[4], changes[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    weights[q] = sample.point.weight(q, sample.mask);
    changes[q] = Twice ? sample.point.weight_change(q, sample.mask, v.y, v.x, v.mask) : C(0);
  }
  int64_t index = sample.column_index(geometry, chunk, first);
#pragma unroll(Twice ? 1 : 4)
  for (int64_t c = first; c < end; ++c, index += geometry.taps * chunk.count) {
    const C g = load_constant(grad_columns + index), h = Twice ? moved.h(index) : C(0);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      C value = weights[q] * (Twice ? h : g);
      if constexpr (Twice) value += changes[q] * g;
      if (corners.has(q)) add(corners.at(q), value);
    }
    corners.advance();
  }
}

template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    scatter_kernel(Geometry geometry, Chunk chunk, int64_t slice_channels, Sampled<T> sampled, Moved<T> moved,
                   const Compute<T>* grad_columns, View<Compute<T>, 4> grad_input) {  // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const Slice slice(geometry, chunk, slice_channels);
  if (slice.is_empty()) return;
  const Sample<T> sample(geometry, chunk, sampled, slice.sample);
  const int64_t first = sample.group * geometry.offset_channels;
  scatter<T, Twice>(geometry, chunk, moved, sample, grad_columns, first + slice.first, first + slice.end, grad_input,
                    [](C* element, C value) { atomicAdd(element, value); });
}

// A thread for each channel of each image that the chunk touches: an order of its own for every sum.
template <class T, bool Twice>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    scatter_in_order_kernel(Geometry geometry, Chunk chunk, Sampled<T> sampled, Moved<T> moved,
                            const Compute<T>* grad_columns, View<Compute<T>, 4> grad_input) {  // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  const int64_t i = thread_index();
  const int64_t n = chunk.image + i / geometry.channels, c = i % geometry.channels;
  const int64_t first = n * geometry.positions, last = first + geometry.positions, end = chunk.begin + chunk.count;
  for (int64_t position = first > chunk.begin ? first : chunk.begin; position < (last < end ? last : end); ++position) {
    const int64_t in_chunk = position - chunk.begin;
    const Place place(geometry, chunk, static_cast<uint32_t>(in_chunk));
    for (int64_t t = 0; t < geometry.taps; ++t) {
      const Sample<T> sample(geometry, sampled, in_chunk, place, t, c / geometry.offset_channels);
      scatter<T, Twice>(geometry, chunk, moved, sample, grad_columns, c, c + 1, grad_input,
                        [](C* element, C value) { store(element, load(element) + value); });
    }
  }
}

}  // namespace handgrad::deform_conv2d
