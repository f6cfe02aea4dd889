// The rectangles of an image as the threads of a block see them, on CUDA devices: cut off, with where their pixels are,
// made once for all threads.
//
// In order of appearance: sources; a layer; the layers of a block; the fill; pixels.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"
#include "paste_host.h"

namespace handgrad::paste {

inline constexpr int kThreads = 256;
// Pixels of a thread, a block apart from each other.
inline constexpr int kPixels = 4;

// ---- sources --------------------------------------------------------------------------------------------------------

// Memory of elements of some type; null where there is none.
struct SourceMemory {
  const unsigned char* data[kSources];
  int64_t strides[kSources][4];
  ScalarType dtype;

  explicit SourceMemory(const Sources& sources) : data{}, strides{}, dtype(ScalarType::Float) {
    for (int k = 0; k < kSources; ++k) {
      if (!sources[k]) continue;
      data[k] = static_cast<const unsigned char*>(sources[k]->const_data_ptr());
      dtype = sources[k]->scalar_type();
      for (size_t d = 0; d < 4; ++d) strides[k][d] = sources[k]->strides()[d];
    }
  }
};

// ---- a layer --------------------------------------------------------------------------------------------------------

// Where a layer's pixels are. Plain data, which shared memory can hold.
struct LayerMemory {
  const unsigned char* data;
  int64_t first, channel, row, column;  // in elements

  __device__ void set(const SourceMemory& memory, const Rectangle& rectangle) {
    data = nullptr;
#pragma unroll
    for (int k = 0; k < kSources; ++k) {
      if (rectangle.source != k) continue;
      data = memory.data[k];
      first = rectangle.image * memory.strides[k][0], channel = memory.strides[k][1];
      row = memory.strides[k][2], column = memory.strides[k][3];
    }
  }
  __device__ int64_t offset(int64_t c, int64_t y, int64_t x) const {
    return first + c * channel + y * row + x * column;
  }
};

struct Layer {
  int32_t top, left, bottom, right, down, across;
  LayerMemory pixels, directions;

  __device__ bool covers(int64_t y, int64_t x) const { return y >= top && y < bottom && x >= left && x < right; }
};

template <class C>
struct LayerOpacity {
  C own, rest, along;

  template <class N>
  __device__ Opacity<N> as() const {
    if constexpr (std::is_same_v<N, C>) {
      return {own, rest};
    } else {
      return {N(own, along), N(rest, -along)};
    }
  }
};

// ---- the layers of a block ------------------------------------------------------------------------------------------

template <class C>
struct Layers {
  Layer layers[kMostRectangles];
  LayerOpacity<C> opacities[kMostRectangles];

  // All threads of a block must call it.
  __device__ void set(const Frame& frame, const Tables& tables, const SourceMemory& sources,
                      const SourceMemory& directions, int64_t n) {
    const int r = static_cast<int>(threadIdx.x);
    if (r < frame.rectangles) {
      const Rectangle rectangle = tables.rectangles.rectangle(frame, n, r);
      Layer& layer = layers[r];
      layer.top = rectangle.top, layer.left = rectangle.left;
      layer.bottom = rectangle.bottom, layer.right = rectangle.right;
      layer.down = rectangle.down, layer.across = rectangle.across;
      layer.pixels.set(sources, rectangle);
      layer.directions.set(directions, rectangle);
      if (r >= frame.opaque()) {
        const Opacity<Dual<C>> by = tables.opacities.opacity<Dual<C>>(n, r - frame.opaque());
        opacities[r] = {by.own.value, by.rest.value, by.own.tangent};
      }
    }
    __syncthreads();
  }
  __device__ uint32_t shown_at(const Frame& frame, int64_t y, int64_t x) const {
    uint32_t covering = 0;
    for (int r = 0; r < frame.rectangles; ++r) {
      if (layers[r].covers(y, x)) covering |= uint32_t{1} << r;
    }
    return shown(covering, frame.opaque());
  }
};

__device__ __forceinline__ int lowest_bit(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(bits)) - 1;
#else
  return __builtin_ctz(bits);
#endif
}

// ---- the fill -------------------------------------------------------------------------------------------------------

// Of the channels of a launch: one number for all, or one each.
inline constexpr int kChannels = 16;
struct Fills {
  int64_t first, count;
  bool one;
  double of[kChannels];

  HANDGRAD_MATH double at(int64_t c) const { return of[one ? 0 : c]; }
};

template <class Body>
void for_fills(const std::vector<double>& fills, const Body& body) {
  const int64_t channels = static_cast<int64_t>(fills.size());
  const bool one = std::all_of(fills.begin(), fills.end(), [&](double fill) { return fill == fills[0]; });
  const int64_t step = one ? channels : kChannels;
  for (int64_t first = 0; first < channels; first += step) {
    Fills made{first, std::min(step, channels - first), one, {}};
    std::copy_n(fills.begin() + first, one ? 1 : made.count, made.of);
    body(made);
  }
}
inline int64_t launches_of(const std::vector<double>& fills) {
  int64_t count = 0;
  for_fills(fills, [&](const Fills&) { ++count; });
  return count;
}

// ---- pixels ---------------------------------------------------------------------------------------------------------

// Blocks have pixels of one image.
struct Grid {
  int64_t per_image;

  explicit Grid(int64_t pixels, int64_t threads = kThreads * kPixels) : per_image((pixels + threads - 1) / threads) {}
};

// body(y, x) for the pixels of a thread.
template <class Body>
__device__ __forceinline__ void for_pixels(const Frame& frame, int64_t per_image, const Body& body) {
  const int64_t pixels = frame.out_height * frame.out_width;
  const int64_t first = blockIdx.x % per_image * (kThreads * kPixels) + threadIdx.x;
#pragma unroll 1
  for (int p = 0; p < kPixels; ++p) {
    const int64_t index = first + p * kThreads;
    if (index < pixels) body(index / frame.out_width, index % frame.out_width);
  }
}

}  // namespace handgrad::paste
