// The walk over the pixels of all images on the CPU, run by run, and a run's way between memory and planes.
//
// In order of appearance: Walk and Run; Memory, a tensor as runs of it are read and written; the end of a chain, a run
// of levels or numbers into memory.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "abi/channels.h"
#include "adjust_colors_host.h"
#include "adjust_colors_loops.h"
#include "cpu/normalisation.h"
#include "cpu/parallel.h"
#include "cpu/planes.h"
#include "cpu/scratch.h"
#include "math/convert.h"

namespace handgrad::adjust_colors {

// ---- runs -----------------------------------------------------------------------------------------------------------

// `count` pixels of image n, from pixel `begin` of a line on, which is pixel `first` of the image; `index` counts the
// runs of all images.
struct Run {
  int64_t index, n, line, begin, first, count;
};

// Lines are rows; or all of an image is one line, where that is so in memory.
struct Walk {
  int64_t images, channels, lines, length, runs_per_line;
  bool is_merged;

  Walk(const Geometry& geometry, std::initializer_list<const Tensor*> tensors)
      : images(geometry.batch), channels(geometry.channels), is_merged(true) {
    for (const Tensor* tensor : tensors) is_merged = is_merged && stride_of_positions(*tensor, 2).has_value();
    lines = is_merged ? 1 : geometry.height;
    length = is_merged ? geometry.pixels() : geometry.width;
    runs_per_line = (length + kRun - 1) / kRun;
  }

  int64_t runs_per_image() const { return lines * runs_per_line; }
  int64_t runs() const { return images * runs_per_image(); }

  Run run(int64_t index) const {
    const int64_t n = index / runs_per_image(), rest = index - n * runs_per_image();
    const int64_t line = rest / runs_per_line, begin = (rest - line * runs_per_line) * kRun;
    return {index, n, line, begin, line * length + begin, std::min(kRun, length - begin)};
  }

  // body(begin, end) over pieces of all runs, on all threads.
  template <class Body>
  void for_each_piece(const Body& body) const {
    parallel_for(runs(), channels * std::min(kRun, length), body);
  }
};

// ---- memory ---------------------------------------------------------------------------------------------------------

template <class Byte>
struct Memory {
  Byte* data;
  ScalarType dtype;
  int64_t image, channel, line, pixel;

  Byte* at(const Run& run, int64_t c) const {
    const int64_t element = dtype == ScalarType::Byte ? 1 : element_size(dtype);
    return data + (run.n * image + c * channel + run.line * line + run.begin * pixel) * element;
  }
  // Pixels of three numbers side by side.
  bool is_packed(int64_t channels) const { return channels == 3 && channel == 1 && pixel == 3; }
};

template <class Byte>
Memory<Byte> memory_of(const Walk& walk, const Tensor& tensor, Byte* data) {
  const Sizes strides = tensor.strides();
  const int64_t pixel = walk.is_merged ? *stride_of_positions(tensor, 2) : strides[3];
  return {data, tensor.scalar_type(), strides[0], strides[1], walk.is_merged ? 0 : strides[2], pixel};
}
using Source = Memory<const unsigned char>;
using Target = Memory<unsigned char>;
inline Source source_of(const Walk& walk, const Tensor& tensor) {
  return memory_of(walk, tensor, static_cast<const unsigned char*>(tensor.const_data_ptr()));
}
inline Target target_of(const Walk& walk, const Tensor& tensor) {
  return memory_of(walk, tensor, static_cast<unsigned char*>(tensor.mutable_data_ptr()));
}

// A run of levels, or of numbers that are computed in C.
template <class C>
void load_planes(const Source& source, int64_t channels, const Run& run, Planes<C>& planes) {
  if (source.dtype != ScalarType::Byte) {
    for (int64_t c = 0; c < channels; ++c)
      load_run<C>(source.dtype, source.at(run, c), 0, source.pixel, run.count, planes.channel[c]);
  } else if (source.is_packed(channels)) {
    split_three<3>(source.at(run, 0), run.count, planes.channel[0], kRun);
  } else if (channels == 3 && source.channel == 1 && source.pixel == 4) {
    split_three<4>(source.at(run, 0), run.count, planes.channel[0], kRun);
  } else {
    for (int64_t c = 0; c < channels; ++c) widen_run(source.at(run, c), source.pixel, run.count, planes.channel[c]);
  }
}

// Planes of C, or of uint8, which is the type in memory then.
template <class V>
void store_planes(const V (&planes)[3][kRun], int64_t channels, const Run& run, const Target& target) {
  const bool is_stored_so = target.dtype == (sizeof(V) == 1 ? ScalarType::Byte : kDtype<V>);
  if (is_stored_so && target.is_packed(channels)) {
    interleave_three(planes[0], kRun, run.count, reinterpret_cast<V*>(target.at(run, 0)));
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    if constexpr (sizeof(V) == 1) {
      V* to = target.at(run, c);
      if (target.pixel == 1) {
        std::copy(planes[c], planes[c] + run.count, to);
      } else {
        for (int64_t i = 0; i < run.count; ++i) to[i * target.pixel] = planes[c][i];
      }
    } else {
      store_run<V>(target.dtype, planes[c], run.count, target.at(run, c), 0, target.pixel);
    }
  }
}

// ---- the end of a chain ---------------------------------------------------------------------------------------------

template <class From, class To>
[[gnu::noinline]] void scale_run(const From* __restrict from, int64_t count, To factor, To* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[i]) * factor;
}

[[gnu::noinline]] inline void narrow_levels(const float* __restrict from, int64_t count, uint8_t* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(static_cast<int32_t>(from[i]));
}

inline void store_levels(const Planes<float>& planes, int64_t channels, const Run& run, const Target& target) {
  uint8_t levels[3][kRun];
  for (int64_t c = 0; c < channels; ++c) narrow_levels(planes.channel[c], run.count, levels[c]);
  store_planes(levels, channels, run, target);
}

// Scaled, if they are levels, and normalised, in F; in place where memory is of F and pixels are neighbours.
template <class F, class C>
void store_normalised(const Planes<C>& planes, const Normalisation<F>& normalisation, int64_t channels, const Run& run,
                      const Target& target) {
  const bool in_place = target.dtype == kDtype<F> && target.pixel == 1;
  F values[3][kRun];
  for (int64_t c = 0; c < channels; ++c) {
    F* to = in_place ? reinterpret_cast<F*>(target.at(run, c)) : values[c];
    scale_run(planes.channel[c], run.count, normalisation.factor(), to);
    normalisation.apply(to, run.count, c);
  }
  if (!in_place) store_planes(values, channels, run, target);
}

}  // namespace handgrad::adjust_colors
