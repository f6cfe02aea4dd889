// The kernels of paste on CUDA devices.
//
// In order of appearance: elements; opaque rectangles; blended ones, and the output along a direction; which rectangles
// show an image of a source; its gradient; that of the opacities.
#pragma once

#include "paste_layers.cuh"

namespace handgrad::paste {

// ---- elements -------------------------------------------------------------------------------------------------------

// How elements are read and written: levels, or numbers that are computed in C.
struct Levels {
  using C = float;
  __device__ static float read_at(const unsigned char* data, ScalarType, int64_t offset) {
    return static_cast<float>(load_constant(data + offset));
  }
  __device__ static void write_at(unsigned char* data, ScalarType, int64_t offset, float value) {
    store(data + offset, level_of(value));
  }
};
template <class Computed>
struct Numbers {
  using C = Computed;
  __device__ static C read_at(const unsigned char* data, ScalarType dtype, int64_t offset) {
    return read(Stored<const C>{data, dtype} + offset);
  }
  __device__ static void write_at(unsigned char* data, ScalarType dtype, int64_t offset, C value) {
    write(Stored<C>{data, dtype} + offset, value);
  }
};

// A pixel of a layer, with its direction where N is dual.
template <class Access, class N>
__device__ __forceinline__ N pixel_of(const Layer& layer, ScalarType dtype, double fill, int64_t c, int64_t y,
                                      int64_t x) {
  using C = typename Access::C;
  N made(static_cast<C>(fill));
  const int64_t row = y + layer.down, column = x + layer.across;
  if (layer.pixels.data) {
    made = N(Access::read_at(layer.pixels.data, dtype, layer.pixels.offset(c, row, column)));
    if constexpr (!std::is_same_v<N, C>) {
      if (layer.directions.data)
        made.tangent = Access::read_at(layer.directions.data, dtype, layer.directions.offset(c, row, column));
    }
  }
  return made;
}

// ---- opaque rectangles ----------------------------------------------------------------------------------------------

// E is an integer of an element's size.
template <class E>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    copy_kernel(Frame frame, Tables tables, SourceMemory sources, Fills fills, int64_t per_image,
                View<E, 4> output) {  // [N, C, height, width]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  __shared__ Layers<float> shared;
  const int64_t n = blockIdx.x / per_image;
  shared.set(frame, tables, sources, sources, n);
  for_pixels(frame, per_image, [&](int64_t y, int64_t x) {
    int shows = -1;
    for (int r = 0; r < frame.rectangles; ++r) {
      if (shared.layers[r].covers(y, x)) shows = r;
    }
    const Layer& layer = shared.layers[shows < 0 ? 0 : shows];
    const bool from_source = shows >= 0 && layer.pixels.data;
    const E* from = reinterpret_cast<const E*>(from_source ? layer.pixels.data : nullptr);
    if (from_source) from += layer.pixels.offset(fills.first, y + layer.down, x + layer.across);
    E* to = output.at(n, fills.first, y, x);
    for (int64_t c = 0; c < fills.count; ++c) {
      const E value = from_source ? load_constant(from + c * layer.pixels.channel)
                                  : *reinterpret_cast<const E*>(fills.of + (fills.one ? 0 : c));
      store(to + c * output.strides[1], value);
    }
  });
}

// ---- blended rectangles ---------------------------------------------------------------------------------------------

// What comes over what, of a channel of a pixel: all layers of `layers`, the lowest first.
template <class Access, class N>
__device__ __forceinline__ N blended(const Layers<typename Access::C>& of, const Frame& frame, ScalarType dtype,
                                     uint32_t layers, double fill, int64_t c, int64_t y, int64_t x) {
  N value(static_cast<typename Access::C>(fill));
  for (; layers; layers &= layers - 1) {
    const int r = lowest_bit(layers);
    const N pixel = pixel_of<Access, N>(of.layers[r], dtype, fill, c, y, x);
    value = r < frame.opaque() ? pixel : over(pixel, value, of.opacities[r].template as<N>());
  }
  return value;
}

// N is C, or dual: then the part along the direction is written.
template <class Access, class N>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    blend_kernel(Frame frame, Tables tables, SourceMemory sources, SourceMemory directions, Fills fills,
                 int64_t per_image, unsigned char* output, View<unsigned char, 4> layout) {  // [N, C, height, width]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  __shared__ Layers<typename Access::C> shared;
  const int64_t n = blockIdx.x / per_image;
  shared.set(frame, tables, sources, directions, n);
  for_pixels(frame, per_image, [&](int64_t y, int64_t x) {
    const uint32_t layers = shared.shown_at(frame, y, x);
    for (int64_t c = 0; c < fills.count; ++c) {
      const N value = blended<Access, N>(shared, frame, sources.dtype, layers, fills.at(c), fills.first + c, y, x);
      const int64_t offset =
          n * layout.strides[0] + (fills.first + c) * layout.strides[1] + y * layout.strides[2] + x * layout.strides[3];
      Access::write_at(output, sources.dtype, offset, wanted_of(value));
    }
  });
}

// ---- which rectangles show an image ---------------------------------------------------------------------------------

// Rectangle r of image n is number n R + r. For each the next one that shows the same image of the same source, and for
// each image of each source the first: -1 is none.
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    links_kernel(Frame frame, Tables tables, int64_t* firsts,  // [4, N]
                 int64_t* nexts) {                             // [N, R]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t count = frame.batch * frame.rectangles;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= count + kSources * frame.batch) return;
  const auto of = [&](int64_t number, int64_t& source) {
    const int64_t n = number / frame.rectangles;
    const int r = static_cast<int>(number - n * frame.rectangles);
    source = tables.rectangles.number(n, r, 4);
    return frame.partner(n, tables.rectangles.number(n, r, 5));
  };
  const bool is_first = index >= count;
  int64_t source = 0, image = 0, begin = 0;
  if (is_first) {
    source = (index - count) / frame.batch, image = (index - count) % frame.batch;
    begin = image / frame.group * frame.group * frame.rectangles;
  } else {
    image = of(index, source), begin = index + 1;
  }
  const int64_t end = smaller_of((image / frame.group + 1) * frame.group * frame.rectangles, count);
  int64_t found = -1;
  for (int64_t number = begin; number < end; ++number) {
    int64_t other = 0;
    if (of(number, other) == image && other == source) {
      found = number;
      break;
    }
  }
  store(is_first ? firsts + (index - count) : nexts + index, found);
}

// ---- the gradient of a source ---------------------------------------------------------------------------------------

// What rectangle r of image n has in a pixel that it covers.
template <class N>
__device__ __forceinline__ N coefficient(const Frame& frame, const Tables& tables, int64_t n, int r, int64_t y,
                                         int64_t x) {
  N rest(1);
#pragma unroll 1
  for (int s = frame.rectangles - 1; s > r; --s) {
    if (!tables.rectangles.rectangle(frame, n, s).covers(y, x)) continue;
    if (s < frame.opaque()) return N(0);
    rest = rest * tables.opacities.opacity<N>(n, s - frame.opaque()).rest;
  }
  return r < frame.opaque() ? rest : rest * tables.opacities.opacity<N>(n, r - frame.opaque()).own;
}

inline constexpr int kTogether = 4;

// A pixel of a source: what all rectangles that show it give back, in their order; some channels at a time.
template <class C, class N>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_source_kernel(Frame frame, Tables tables, int source, const int64_t* firsts,  // [N]
                       const int64_t* nexts,                                           // [N, R]
                       StoredView<const C, 4> grad_output,                             // [N, C, height, width]
                       StoredView<C, 4> grad) {                                        // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  int64_t height = 0, width = 0;
#pragma unroll
  for (int k = 0; k < kSources; ++k) {
    if (k == source) height = frame.heights[k], width = frame.widths[k];
  }
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= frame.batch * height * width) return;
  const int64_t m = index / (height * width), row = index / width % height, column = index % width;
  for (int64_t first = 0; first < frame.channels; first += kTogether) {
    C sums[kTogether] = {};
    for (int64_t use = load(firsts + m); use >= 0; use = load(nexts + use)) {
      const int64_t n = use / frame.rectangles;
      const int r = static_cast<int>(use - n * frame.rectangles);
      const Rectangle rectangle = tables.rectangles.rectangle(frame, n, r);
      const int64_t y = row - rectangle.down, x = column - rectangle.across;
      if (!rectangle.covers(y, x)) continue;
      const N by = coefficient<N>(frame, tables, n, r, y, x);
      // What is hidden has no part, whatever grad_output is.
      if (value_of(by) == 0 && wanted_of(by) == 0) continue;
#pragma unroll
      for (int c = 0; c < kTogether; ++c) {
        if (first + c < frame.channels) sums[c] += wanted_of(by) * read(grad_output.at(n, first + c, y, x));
      }
    }
#pragma unroll
    for (int c = 0; c < kTogether; ++c) {
      if (first + c < frame.channels) write(grad.at(m, first + c, row, column), sums[c]);
    }
  }
}

// ---- the gradient of the opacities ----------------------------------------------------------------------------------

// Blocks that share the sum of an opacity.
inline constexpr int kSumBlocks = 16;

template <class C, class N>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    grad_opacity_kernel(Frame frame, Tables tables, SourceMemory sources, SourceMemory directions, Fills fills,
                        StoredView<const C, 4> grad_output,  // [N, C, height, width]
                        double* partial) {                   // [N, K, kSumBlocks]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using Access = Numbers<C>;
  __shared__ Layers<C> shared;
  const int64_t sum = blockIdx.x / kSumBlocks, n = sum / frame.blended;
  const int r = frame.opaque() + static_cast<int>(sum % frame.blended);
  shared.set(frame, tables, sources, directions, n);
  const int64_t pixels = frame.out_height * frame.out_width;
  double total = 0;
#pragma unroll 1
  for (int64_t index = int64_t{blockIdx.x % kSumBlocks} * kThreads + threadIdx.x; index < pixels;
       index += int64_t{kSumBlocks} * kThreads) {
    const int64_t y = index / frame.out_width, x = index % frame.out_width;
    if (!shared.layers[r].covers(y, x)) continue;
    const uint32_t layers = shared.shown_at(frame, y, x), below = (uint32_t{1} << r) - 1;
    N rest(1);
    for (uint32_t above = layers & ~below & ~(below + 1); above; above &= above - 1)
      rest = rest * shared.opacities[lowest_bit(above)].template as<N>().rest;
    for (int64_t c = 0; c < fills.count; ++c) {
      const double fill = fills.at(c);
      const int64_t channel = fills.first + c;
      const N under = blended<Access, N>(shared, frame, sources.dtype, layers & below, fill, channel, y, x);
      const N own = pixel_of<Access, N>(shared.layers[r], sources.dtype, fill, channel, y, x);
      total += static_cast<double>(wanted_of(rest * (own - under)) * read(grad_output.at(n, channel, y, x)));
    }
  }
  store_block_sum<kThreads>(total, partial);
}

__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sum_opacity_kernel(int64_t count, int64_t launches, const double* partial, double* grad_opacity) {  // [N, K]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= count) return;
  double total = 0;
  for (int64_t launch = 0; launch < launches; ++launch) {
    const double* of_sum = partial + (launch * count + index) * kSumBlocks;
#pragma unroll
    for (int block = 0; block < kSumBlocks; ++block) total += load(of_sum + block);
  }
  store(grad_opacity + index, total);
}

}  // namespace handgrad::paste
