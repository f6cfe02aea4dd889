// The walk over the pixels of all images on the CPU, run by run, and where a run is in the memory of a tensor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "abi/channels.h"
#include "abi/dtype.h"
#include "cpu/parallel.h"

namespace handgrad {

// Pixels of a run: all channels of it, and of what its derivatives need, stay in the nearest caches.
inline constexpr int64_t kRun = 512;

// `count` pixels of image n, from pixel `begin` of a line on, which is pixel `first` of the image; `index` counts the
// runs of all images.
struct PixelRun {
  int64_t index, n, line, begin, first, count;
};

// Lines are rows; or all of an image is one line, where that is so in memory.
struct PixelWalk {
  int64_t images, channels, lines, length, most, runs_per_line;
  bool is_merged;

  // Geometry: of images, with batch, channels, height and width. most: pixels of a run.
  template <class Geometry>
  PixelWalk(const Geometry& geometry, std::initializer_list<const Tensor*> tensors, int64_t most = kRun)
      : images(geometry.batch), channels(geometry.channels), most(most), is_merged(true) {
    for (const Tensor* tensor : tensors) is_merged = is_merged && stride_of_positions(*tensor, 2).has_value();
    lines = is_merged ? 1 : geometry.height;
    length = is_merged ? geometry.height * geometry.width : geometry.width;
    runs_per_line = (length + most - 1) / most;
  }

  int64_t runs_per_image() const { return lines * runs_per_line; }
  int64_t runs() const { return images * runs_per_image(); }

  PixelRun run(int64_t index) const {
    const int64_t n = index / runs_per_image(), rest = index - n * runs_per_image();
    const int64_t line = rest / runs_per_line, begin = (rest - line * runs_per_line) * most;
    return {index, n, line, begin, line * length + begin, std::min(most, length - begin)};
  }

  // body(begin, end) over pieces of all runs, on all threads.
  template <class Body>
  void for_each_piece(const Body& body) const {
    parallel_for(runs(), channels * std::min(most, length), body);
  }
};

// A tensor as runs of it are read, or written; strides in elements.
template <class Byte>
struct PixelMemory {
  Byte* data;
  ScalarType dtype;
  int64_t image, channel, line, pixel;

  Byte* at(const PixelRun& run, int64_t c) const {
    const int64_t element = dtype == ScalarType::Byte ? 1 : element_size(dtype);
    return data + (run.n * image + c * channel + run.line * line + run.begin * pixel) * element;
  }
  // The numbers of a pixel side by side, and pixels too.
  bool is_packed(int64_t channels) const { return channels > 1 && channel == 1 && pixel == channels; }
};

template <class Byte>
PixelMemory<Byte> memory_of(const PixelWalk& walk, const Tensor& tensor, Byte* data) {
  const Sizes strides = tensor.strides();
  const int64_t pixel = walk.is_merged ? *stride_of_positions(tensor, 2) : strides[3];
  return {data, tensor.scalar_type(), strides[0], strides[1], walk.is_merged ? 0 : strides[2], pixel};
}
using PixelSource = PixelMemory<const unsigned char>;
using PixelTarget = PixelMemory<unsigned char>;
inline PixelSource source_of(const PixelWalk& walk, const Tensor& tensor) {
  return memory_of(walk, tensor, static_cast<const unsigned char*>(tensor.const_data_ptr()));
}
inline PixelTarget target_of(const PixelWalk& walk, const Tensor& tensor) {
  return memory_of(walk, tensor, static_cast<unsigned char*>(tensor.mutable_data_ptr()));
}

}  // namespace handgrad
