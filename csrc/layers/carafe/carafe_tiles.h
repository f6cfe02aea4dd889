// What a thread of the CPU has at a time: a tile of pixels of the features, with some channels of one group, and the
// outputs and weights that belong to them, some rows at a time.
//
// Channels are innermost, in whole vectors: a tensor that has them so in memory is read in place, any other is copied.
// A weight is one number for all channels of a group, and every window is read once for the outputs that share it.
//
// In order of appearance: Chunk, some channels of a group; Tiling and Tile; Stripe, rows of outputs; pixels_of and
// WeightTile, the copies; the innermost loops of the three passes.
#pragma once

#include <algorithm>

#include "carafe_host.h"
#include "cpu/channel_blocks.h"
#include "cpu/lanes.h"

namespace handgrad::carafe {

// Channels that a thread has at a time, which share the copy of the weights; and where sums go over them.
inline constexpr int64_t kChunk = 64, kSummedChunk = 256;
// Columns of a tile; where there are more channels, fewer.
inline constexpr int64_t kColumns = 64, kSummedColumns = 32;
// Outputs of a pixel that are in registers together.
inline constexpr int64_t kMostOutputs = 4;

// Vectors of channels that are in registers with them, of which processors with the widest have more.
inline constexpr int64_t kMostVectors = kOwnBytes == kCacheLine ? 4 : 2;

// Sums that are left of a vector's lanes.
template <class C>
inline constexpr int64_t kSums = 16 / int64_t{sizeof(C)};

template <class C>
int64_t padded(int64_t channels) {
  return (channels + kOwnLanes<C> - 1) / kOwnLanes<C> * kOwnLanes<C>;
}

// ---- Chunk ----------------------------------------------------------------------------------------------------------

struct Chunk {
  int64_t group, first, count;
};

// Of all groups, `most` channels at most. What is left over of whole vectors is a chunk of its own: it alone has to be
// copied.
template <class C>
std::vector<Chunk> chunks_of(const Geometry& geometry, int64_t most) {
  std::vector<Chunk> chunks;
  for (int64_t group = 0; group < geometry.groups; ++group) {
    const int64_t end = (group + 1) * geometry.group_channels();
    for (int64_t first = group * geometry.group_channels(); first < end; first += chunks.back().count) {
      const int64_t whole = std::min(most, (end - first) / kOwnLanes<C> * kOwnLanes<C>);
      chunks.push_back({group, first, whole > 0 ? whole : end - first});
    }
  }
  return chunks;
}

// ---- Tiling ---------------------------------------------------------------------------------------------------------

struct Tiling {
  int64_t rows, columns, down, across;

  // Of a large scale there are fewer columns, so that outputs stay in a cache.
  Tiling(const Geometry& geometry, int64_t most)
      : rows(8),
        columns(std::clamp<int64_t>(std::min(4 * most / geometry.scale, geometry.width), 1, most)),
        down((geometry.height + rows - 1) / rows),
        across((geometry.width + columns - 1) / columns) {}
  int64_t count() const { return down * across; }
  // With all that the windows of a tile reach.
  int64_t reached_columns(const Geometry& geometry) const {
    return std::min(columns + 2 * geometry.radius(), geometry.width);
  }
};

// Rows [top, bottom) and columns [left, right) of image n.
struct Tile {
  int64_t n, top, bottom, left, right;

  Tile(const Geometry& geometry, const Tiling& tiling, int64_t index)
      : n(index / tiling.count()),
        top(index % tiling.count() / tiling.across * tiling.rows),
        bottom(std::min(top + tiling.rows, geometry.height)),
        left(index % tiling.across * tiling.columns),
        right(std::min(left + tiling.columns, geometry.width)) {}

  // With all that the windows of its pixels reach.
  PixelWindow reach(const Geometry& geometry) const {
    const int64_t radius = geometry.radius();
    return {std::max<int64_t>(top - radius, 0), std::min(bottom + radius, geometry.height),
            std::max<int64_t>(left - radius, 0), std::min(right + radius, geometry.width)};
  }
};

// ---- Stripe ---------------------------------------------------------------------------------------------------------

// Rows of outputs of one row of pixels that are worked on together: both of a scale of 2, so that four outputs share a
// window while it is read.
struct Stripe {
  int64_t first, rows;

  static int64_t height(const Geometry& geometry) { return geometry.scale == 2 ? 2 : 1; }
  // body(stripe) for the stripes of a row of pixels.
  template <class Body>
  static void for_each(const Geometry& geometry, int64_t y, const Body& body) {
    const int64_t rows = height(geometry);
    for (int64_t a = 0; a < geometry.scale; a += rows) body(Stripe{y * geometry.scale + a, rows});
  }
  // Its outputs of columns [left, right) of pixels.
  PixelWindow outputs(const Geometry& geometry, int64_t left, int64_t right) const {
    return {first, first + rows, left * geometry.scale, right * geometry.scale};
  }
};

// body(count as a constant, first) for parts of `all` things, the largest first.
template <int64_t... Sizes, class Body>
void in_parts(int64_t all, const Body& body) {
  int64_t first = 0;
  const auto take = [&](auto size) {
    for (; all - first >= size.value; first += size.value) body(size, first);
  };
  (take(std::integral_constant<int64_t, Sizes>()), ...);
}

// ---- the copies -----------------------------------------------------------------------------------------------------

// A chunk of the pixels of a window: in place, or a copy with zeros for what its last vector lacks.
template <class C>
BlockPlane<const C> pixels_of(const StoredView<const C, 4>& image,  // [N, C, height, width]
                              int64_t n, const Chunk& chunk, const PixelWindow& window, ScratchVector<C>& memory,
                              Transposer<kOwnLanes<C>, C>& scratch) {
  const ChannelBlock block{n, chunk.first, chunk.count};
  const int64_t channels = padded<C>(chunk.count);
  if (image.first.is_computed_in() && image.strides[1] == 1 && channels == chunk.count) {
    return {image.at(n, chunk.first, 0, 0).in_place(), image.strides[2], image.strides[3], 0, 0};
  }
  const int64_t row_stride = window.columns() * channels;
  memory.resize(std::max(memory.size(), static_cast<size_t>(window.rows() * row_stride)));
  for (int64_t y = window.row_begin; y < window.row_end; ++y) {
    load_pixels<kOwnLanes<C>>(row_of(image, block, y, window.column_begin), chunk.count, window.columns(), scratch,
                              memory.data() + (y - window.row_begin) * row_stride, channels);
  }
  return {memory.data(), row_stride, channels, window.row_begin, window.column_begin};
}

// The weights of the outputs of a stripe, or their gradients: for each tap, row by row.
template <class C>
class WeightTile {
 public:
  WeightTile(const Geometry& geometry, int64_t columns)
      : geometry_(geometry), width_(columns * geometry.scale), data_(static_cast<size_t>(geometry.taps() * step())) {}

  // Between taps.
  int64_t step() const { return Stripe::height(geometry_) * width_; }
  // An output's weight of the first tap; `column` is counted from the first that is here.
  C* at(int64_t row, int64_t column) { return data_.data() + row * width_ + column; }
  void clear() { std::fill(data_.begin(), data_.end(), C(0)); }

  // Of the rows of taps in `down`.
  void load(const StoredView<const C, 4>& masks, int64_t n, int64_t group, const PixelWindow& outputs, Taps down) {
    for_each_run(n, group, outputs, down, [&](int64_t channel, int64_t y, C* run) {
      load_run(masks.at(n, channel, y, outputs.column_begin), masks.strides[3], outputs.columns(), run);
    });
  }
  void store(const StoredView<C, 4>& masks, int64_t n, int64_t group, const PixelWindow& outputs) {
    for_each_run(n, group, outputs, {0, geometry_.kernel}, [&](int64_t channel, int64_t y, const C* run) {
      store_run(run, outputs.columns(), masks.at(n, channel, y, outputs.column_begin), masks.strides[3]);
    });
  }

 private:
  template <class Body>
  void for_each_run(int64_t, int64_t group, const PixelWindow& outputs, Taps down, const Body& body) {
    for (int64_t tap = down.begin * geometry_.kernel; tap < down.end * geometry_.kernel; ++tap) {
      for (int64_t row = 0; row < outputs.rows(); ++row) {
        body(group * geometry_.taps() + tap, outputs.row_begin + row, at(row, 0) + tap * step());
      }
    }
  }

  const Geometry& geometry_;
  const int64_t width_;
  ScratchVector<C> data_;
};

// ---- the innermost loops --------------------------------------------------------------------------------------------

// The window of a pixel: those of its taps that are in the image, and where the first of them is in memory.
template <class P>
struct Window {
  Taps down, across;
  P* first;
  int64_t row_step, pixel_step;

  P* row(int64_t i) const { return first + (i - down.begin) * row_step; }
};

// sums[q] += the sum over the window of its pixels times weights[q], for V vectors of channels.
template <int64_t V, int64_t Q, class C>
[[gnu::noinline]] void add_window(const Window<const C>& window, int64_t kernel, const C* const* weights, int64_t step,
                                  C* const* sums) {
  OwnLanes<C> total[Q][V];
#pragma GCC unroll 8
  for (int64_t q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < V; ++v) total[q][v] = load_own_lanes(sums[q] + v * kOwnLanes<C>);
  }
  for (int64_t i = window.down.begin; i < window.down.end; ++i) {
    const C* pixel = window.row(i);
    int64_t tap = (i * kernel + window.across.begin) * step;
    for (int64_t j = window.across.begin; j < window.across.end; ++j, pixel += window.pixel_step, tap += step) {
      OwnLanes<C> x[V];
#pragma GCC unroll 8
      for (int64_t v = 0; v < V; ++v) x[v] = load_own_lanes(pixel + v * kOwnLanes<C>);
#pragma GCC unroll 8
      for (int64_t q = 0; q < Q; ++q) {
        const C weight = weights[q][tap];
#pragma GCC unroll 8
        for (int64_t v = 0; v < V; ++v) total[q][v] += x[v] * weight;
      }
    }
  }
#pragma GCC unroll 8
  for (int64_t q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < V; ++v) store_own_lanes(total[q][v], sums[q] + v * kOwnLanes<C>);
  }
}

// The transposed: to each pixel of the window the gradients of the outputs that look at it, times their weights of it.
template <int64_t V, int64_t Q, class C>
[[gnu::noinline]] void spread(const C* const* grads, const C* const* weights, int64_t step, int64_t kernel,
                              const Window<C>& window) {
  OwnLanes<C> grad[Q][V];
#pragma GCC unroll 8
  for (int64_t q = 0; q < Q; ++q) {
#pragma GCC unroll 8
    for (int64_t v = 0; v < V; ++v) grad[q][v] = load_own_lanes(grads[q] + v * kOwnLanes<C>);
  }
  for (int64_t i = window.down.begin; i < window.down.end; ++i) {
    C* pixel = window.row(i);
    int64_t tap = (i * kernel + window.across.begin) * step;
    for (int64_t j = window.across.begin; j < window.across.end; ++j, pixel += window.pixel_step, tap += step) {
      OwnLanes<C> total[V];
#pragma GCC unroll 8
      for (int64_t v = 0; v < V; ++v) total[v] = load_own_lanes(pixel + v * kOwnLanes<C>);
#pragma GCC unroll 8
      for (int64_t q = 0; q < Q; ++q) {
        const C weight = weights[q][tap];
#pragma GCC unroll 8
        for (int64_t v = 0; v < V; ++v) total[v] += grad[q][v] * weight;
      }
#pragma GCC unroll 8
      for (int64_t v = 0; v < V; ++v) store_own_lanes(total[v], pixel + v * kOwnLanes<C>);
    }
  }
}

// Sixteen bytes of sums of a vector's lanes, halves first.
template <class C, int64_t Count>
[[gnu::always_inline]] inline void narrow_sums(const Packed<C, Count>& lanes, Packed<C, kSums<C>>& sums) {
  if constexpr (Count == kSums<C>) {
    sums = lanes;
  } else {
    Packed<C, Count / 2> halves[2];
    std::memcpy(halves, &lanes, sizeof(halves));
    halves[0] += halves[1];
    narrow_sums<C, Count / 2>(halves[0], sums);
  }
}

// The sums of Q vectors, added to as many numbers; of four of them together, as rows of a square.
template <int64_t Q, class C>
[[gnu::always_inline]] inline void add_sums(const OwnLanes<C> (&lanes)[Q], C* const* to, int64_t offset) {
  Packed<C, kSums<C>> narrow[Q];
#pragma GCC unroll 8
  for (int64_t q = 0; q < Q; ++q) narrow_sums<C, kOwnLanes<C>>(lanes[q], narrow[q]);
  C sums[Q] = {};
  if constexpr (Q == 4 && sizeof(C) == sizeof(float)) {
    const Packed<C, 4> a = __builtin_shufflevector(narrow[0], narrow[1], 0, 4, 1, 5) +
                           __builtin_shufflevector(narrow[0], narrow[1], 2, 6, 3, 7);
    const Packed<C, 4> b = __builtin_shufflevector(narrow[2], narrow[3], 0, 4, 1, 5) +
                           __builtin_shufflevector(narrow[2], narrow[3], 2, 6, 3, 7);
    const Packed<C, 4> four = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    std::memcpy(sums, &four, sizeof(four));
  } else {
#pragma GCC unroll 8
    for (int64_t q = 0; q < Q; ++q) {
      for (int64_t lane = 0; lane < kSums<C>; ++lane) sums[q] += narrow[q][lane];
    }
  }
#pragma GCC unroll 8
  for (int64_t q = 0; q < Q; ++q) to[q][offset] += sums[q];
}

// weights[q], of T taps of a row, += the sum over channels, so many vectors of them, of gradients times pixels.
template <int64_t T, int64_t Q, class C>
[[gnu::noinline]] void add_channels(const C* pixel, int64_t pixel_step, const C* const* grads, int64_t vectors,
                                    C* const* weights, int64_t step) {
  OwnLanes<C> total[T][Q];
#pragma GCC unroll 8
  for (int64_t t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int64_t q = 0; q < Q; ++q) total[t][q] = OwnLanes<C>{};
  }
  for (int64_t c = 0; c < vectors * kOwnLanes<C>; c += kOwnLanes<C>) {
    OwnLanes<C> grad[Q];
#pragma GCC unroll 8
    for (int64_t q = 0; q < Q; ++q) grad[q] = load_own_lanes(grads[q] + c);
#pragma GCC unroll 8
    for (int64_t t = 0; t < T; ++t) {
      const OwnLanes<C> x = load_own_lanes(pixel + t * pixel_step + c);
#pragma GCC unroll 8
      for (int64_t q = 0; q < Q; ++q) total[t][q] += x * grad[q];
    }
  }
#pragma GCC unroll 8
  for (int64_t t = 0; t < T; ++t) {
    add_sums<Q, C>(total[t], weights, t * step);
  }
}

}  // namespace handgrad::carafe
