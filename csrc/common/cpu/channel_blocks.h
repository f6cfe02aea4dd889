// Images with channels innermost, however they lie in memory: so that all channels of a pixel are one run, and the work
// on it is vectorised across channels.
//
// An image is worked on in blocks of Width channels (ChannelBlock), or whole. Where memory already has the order (row,
// column, channel) it is used as it lies; otherwise the part of the image that is looked at (PixelWindow) is copied
// into that order, through Transposer's scratch memory, and becomes a BlockPlane.
//
// In order of appearance: load_pixels and store_pixels, a row of pixels; ChannelBlock, PixelWindow, BlockPlane;
// load_block, clear_block and store_block; the loop over blocks.
#pragma once

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/transpose.h"
#include "math/stored.h"

namespace handgrad {

// Channels in a block: enough for whole vectors, few enough for a block of an image to stay in the cache. An image of
// few channels has a block that is not mostly empty.
inline constexpr int64_t kBlockChannels = 32, kFewChannels = 8;
// And one whose two to four channels are a vector of any processor; a missing one is zeros.
inline constexpr int64_t kQuad = 4;

// ---- a row of pixels ------------------------------------------------------------------------------------------------

// Scratch memory for lines of up to `length` pixels of Width channels.
template <int64_t Width, class C>
struct Transposer {
  int64_t length;
  ScratchVector<C> lines;

  explicit Transposer(int64_t length) : length(length), lines(static_cast<size_t>(length * Width)) {}
  C* line(int64_t c) { return lines.data() + c * length; }
};

// Where a row of pixels lies in memory.
template <class P>
struct PixelRow {
  Stored<P> first;
  int64_t channel_stride, pixel_stride;
};

// Whether a square of Width lines fits into registers: then what is left of the channels is one more, with zeros.
template <int64_t Width, class C>
inline constexpr bool kHasSquares = Width <= kOwnLanes<C>;
// Whether channels that lie side by side are so few that a call for each pixel would take longer than lines.
template <int64_t Width, class C>
bool are_lines_sooner(int64_t channels) {
  return kHasSquares<Width, C> && channels > 1 && channels < Width;
}
template <int64_t Width, class C>
int64_t whole_squares(int64_t channels) {
  return kHasSquares<Width, C> ? channels / Width * Width : channels;
}

// `channels` of `pixels` to groups, `group` apart. Up to a multiple of Width, channels that there are none of are 0;
// `group` has room for them.
template <int64_t Width, class C>
void load_pixels(const PixelRow<const C>& from, int64_t channels, int64_t pixels, Transposer<Width, C>& scratch, C* to,
                 int64_t group) {
  const auto clear = [&](int64_t first) {
    const int64_t filled = (channels + Width - 1) / Width * Width;
    for (int64_t i = 0; first < filled && i < pixels; ++i)
      std::fill(to + i * group + first, to + i * group + filled, C(0));
  };
  if (from.channel_stride == 1 && !are_lines_sooner<Width, C>(channels)) {
    dispatch_storage<C>(from.first.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* data = from.first.template as<T>();
      for (int64_t i = 0; i < pixels; ++i) load_run(data + i * from.pixel_stride, 1, channels, to + i * group);
    });
    return clear(channels);
  }
  if (from.first.is_computed_in() && from.pixel_stride == 1) {
    const C* const lines = from.first.in_place();
    const int64_t whole = whole_squares<Width, C>(channels);
    transpose(lines, from.channel_stride, whole, pixels, to, group);
    if constexpr (kHasSquares<Width, C>) {
      if (whole == channels) return;
      lines_to_groups<Width>(lines + whole * from.channel_stride, from.channel_stride, channels - whole, pixels,
                             to + whole, group);
    } else {
      clear(channels);
    }
    return;
  }
  for (int64_t c = 0; c < channels; c += Width) {
    const Stored<const C> block = from.first + c * from.channel_stride;
    const int64_t count = std::min(Width, channels - c);
    for (int64_t k = 0; k < count; ++k) {
      load_run(block + k * from.channel_stride, from.pixel_stride, pixels, scratch.line(k));
    }
    for (int64_t k = count; k < Width; ++k) std::fill(scratch.line(k), scratch.line(k) + pixels, C(0));
    transpose<C>(scratch.lines.data(), scratch.length, Width, pixels, to + c, group);
  }
}

template <int64_t Width, class C>
void store_pixels(const C* from, int64_t group, int64_t channels, int64_t pixels, Transposer<Width, C>& scratch,
                  const PixelRow<C>& to) {
  if (to.channel_stride == 1 && !are_lines_sooner<Width, C>(channels)) {
    dispatch_storage<C>(to.first.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      T* data = to.first.template as<T>();
      for (int64_t i = 0; i < pixels; ++i) store_run(from + i * group, channels, data + i * to.pixel_stride, 1);
    });
    return;
  }
  if (to.first.is_computed_in() && to.pixel_stride == 1) {
    C* const lines = to.first.in_place();
    const int64_t whole = whole_squares<Width, C>(channels);
    transpose(from, group, pixels, whole, lines, to.channel_stride);
    if constexpr (kHasSquares<Width, C>) {
      if (whole == channels) return;
      groups_to_lines<Width>(from + whole, group, pixels, channels - whole, lines + whole * to.channel_stride,
                             to.channel_stride);
    }
    return;
  }
  for (int64_t c = 0; c < channels; c += Width) {
    const Stored<C> block = to.first + c * to.channel_stride;
    const int64_t count = std::min(Width, channels - c);
    transpose<C>(from + c, group, pixels, count, scratch.lines.data(), scratch.length);
    for (int64_t k = 0; k < count; ++k) {
      store_run(scratch.line(k), pixels, block + k * to.channel_stride, to.pixel_stride);
    }
  }
}

// ---- a block of channels of an image --------------------------------------------------------------------------------

// Channels [first, first + count) of image n.
struct ChannelBlock {
  int64_t n, first, count;
};

// Rows [row_begin, row_end) and columns [column_begin, column_end) of an image.
struct PixelWindow {
  int64_t row_begin = 0, row_end = 0, column_begin = 0, column_end = 0;

  int64_t rows() const { return row_end - row_begin; }
  int64_t columns() const { return column_end - column_begin; }
  bool is_empty() const { return row_begin == row_end || column_begin == column_end; }

  // Grows to hold another.
  void add(const PixelWindow& other) {
    if (other.is_empty()) return;
    const bool first = is_empty();
    row_begin = first ? other.row_begin : std::min(row_begin, other.row_begin);
    row_end = first ? other.row_end : std::max(row_end, other.row_end);
    column_begin = first ? other.column_begin : std::min(column_begin, other.column_begin);
    column_end = first ? other.column_end : std::max(column_end, other.column_end);
  }
};

// A block in the order (row, column, channel): pixel (y, x) of the image is Width numbers.
template <class P>
struct BlockPlane {
  P* data = nullptr;
  int64_t row_stride = 0, pixel_stride = 0, row_begin = 0, column_begin = 0;

  P* at(int64_t y, int64_t x) const { return data + (y - row_begin) * row_stride + (x - column_begin) * pixel_stride; }
};

// Whether a block can be used as it lies in memory.
template <int64_t Width, class P>
bool is_channels_last_block(const StoredView<P, 4>& image, const ChannelBlock& block) {
  return image.first.is_computed_in() && image.strides[1] == 1 && block.count == Width;
}

template <int64_t Width, class P>
BlockPlane<P> plane_in_place(const StoredView<P, 4>& image, const ChannelBlock& block) {
  return {image.at(block.n, block.first, 0, 0).in_place(), image.strides[2], image.strides[3], 0, 0};
}

// Row y of a block, from column x on.
template <class P>
PixelRow<P> row_of(const StoredView<P, 4>& image, const ChannelBlock& block, int64_t y, int64_t x) {
  return {image.at(block.n, block.first, y, x), image.strides[1], image.strides[3]};
}

// A block of an image, for reading: in place, or a copy of the window.
template <int64_t Width, class C>
BlockPlane<const C> load_block(const StoredView<const C, 4>& image,  // [N, C, H, W]
                               const ChannelBlock& block, const PixelWindow& window, ScratchVector<C>& memory,
                               Transposer<Width, C>& scratch) {
  if (is_channels_last_block<Width>(image, block)) return plane_in_place<Width>(image, block);
  const int64_t row_stride = window.columns() * Width;
  memory.resize(std::max(memory.size(), static_cast<size_t>(window.rows() * row_stride)));
  for (int64_t y = window.row_begin; y < window.row_end; ++y) {
    load_pixels<Width>(row_of(image, block, y, window.column_begin), block.count, window.columns(), scratch,
                       memory.data() + (y - window.row_begin) * row_stride, Width);
  }
  return {memory.data(), row_stride, Width, window.row_begin, window.column_begin};
}

// A block of zeros to add to: in place, over all of the image, or a window that store_block copies.
template <int64_t Width, class C>
BlockPlane<C> clear_block(const StoredView<C, 4>& image,  // [N, C, height, width]
                          int64_t height, int64_t width, const ChannelBlock& block, const PixelWindow& window,
                          ScratchVector<C>& memory) {
  if (is_channels_last_block<Width>(image, block)) {
    const BlockPlane<C> plane = plane_in_place<Width>(image, block);
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) std::fill(plane.at(y, x), plane.at(y, x) + Width, C(0));
    }
    return plane;
  }
  memory.assign(static_cast<size_t>(window.rows() * window.columns() * Width), C(0));
  return {memory.data(), window.columns() * Width, Width, window.row_begin, window.column_begin};
}

// Zeros in columns [begin, end) of row y.
template <class C>
void clear_pixels(const StoredView<C, 4>& image, const ChannelBlock& block, int64_t y, int64_t begin, int64_t end,
                  const ScratchVector<C>& zeros) {
  if (image.strides[1] == 1) {
    for (int64_t x = begin; x < end; ++x) {
      store_run(zeros.data(), block.count, image.at(block.n, block.first, y, x), 1);
    }
  } else {
    for (int64_t c = block.first; begin < end && c < block.first + block.count; ++c) {
      store_run(zeros.data(), end - begin, image.at(block.n, c, y, begin), image.strides[3]);
    }
  }
}

// What clear_block gave, to the image, with zeros around the window.
template <int64_t Width, class C>
void store_block(const BlockPlane<C>& plane, const StoredView<C, 4>& image,  // [N, C, height, width]
                 int64_t height, int64_t width, const ChannelBlock& block, const PixelWindow& window,
                 Transposer<Width, C>& scratch) {
  if (is_channels_last_block<Width>(image, block)) return;
  const ScratchVector<C> zeros(static_cast<size_t>(std::max(width, block.count)), C(0));
  for (int64_t y = 0; y < height; ++y) {
    if (y < window.row_begin || y >= window.row_end) {
      clear_pixels(image, block, y, 0, width, zeros);
      continue;
    }
    clear_pixels(image, block, y, 0, window.column_begin, zeros);
    store_pixels<Width>(plane.at(y, window.column_begin), Width, block.count, window.columns(), scratch,
                        row_of(image, block, y, window.column_begin));
    clear_pixels(image, block, y, window.column_end, width, zeros);
  }
}

// ---- all blocks of all images ---------------------------------------------------------------------------------------

// body(begin, end) for pieces of all blocks, of `elements` each; channel_block tells which block an index is. They are
// numbered so that a thread has some blocks of each image, since the work may all be on one.
template <int64_t Width, class Body>
void for_each_block_range(int64_t batch, int64_t channels, int64_t elements, const Body& body) {
  parallel_for((channels + Width - 1) / Width * batch, elements, body);
}

template <int64_t Width>
ChannelBlock channel_block(int64_t batch, int64_t channels, int64_t index) {
  const int64_t first = index / batch * Width;
  return {index % batch, first, std::min(Width, channels - first)};
}

// Calls body with the width that suits these channels, as a constant.
template <class Body>
void dispatch_width(int64_t channels, const Body& body) {
  if (channels <= kFewChannels) {
    body(std::integral_constant<int64_t, kFewChannels>());
  } else {
    body(std::integral_constant<int64_t, kBlockChannels>());
  }
}

}  // namespace handgrad
