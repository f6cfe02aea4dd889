// What a thread of the CPU has of two maps at a time: a tile of a few rows and columns, some channels of it, and the
// same of the other map with all displacements around it. Copies, of the type that is computed in, with zeros beyond
// the maps' edges: so the loops over them know neither strides nor borders, and any memory order serves them.
//
// In order of appearance: Cut, rows or columns of a tile and where each displacement's begin; MapTile, the copy;
// add_products, outputs from two tiles; sum_displacements, gradients.
#pragma once

#include <algorithm>

#include "correlation_host.h"
#include "cpu/lanes.h"
#include "math/stored.h"

namespace handgrad::correlation {

// ---- Cut ------------------------------------------------------------------------------------------------------------

// Along one axis: `length` pixels that are `stride` apart, and the pixels that they have at `count` displacements,
// `step` apart. They are kept as runs of pixels `stride` apart, so that those of a displacement lie side by side: one
// run for each remainder, or, of displacements too far from each other to have pixels in common, one for each of them.
struct Cut {
  int64_t length, stride, count, step;
  bool shares;
  int64_t runs, run_length;

  Cut(int64_t length, int64_t stride, int64_t count, int64_t step)
      : length(length), stride(stride), count(count), step(step), shares(step < length * stride) {
    runs = shares ? stride : count;
    run_length = shares ? length + (count - 1) * step / stride + 1 : length;
  }
  int64_t kept() const { return runs * run_length; }
  // The first pixel of a run, from the first of all.
  int64_t first(int64_t run) const { return shares ? run : run * step; }
  // Where a displacement's pixels begin.
  int64_t begin(int64_t displacement) const {
    const int64_t away = displacement * step;
    return shares ? away % stride * run_length + away / stride : displacement * run_length;
  }
};

// ---- MapTile --------------------------------------------------------------------------------------------------------

// Channels of a map, with `rows` by `columns` kept of each.
template <class C>
class MapTile {
 public:
  // Room for `channels` of them. The last displacement's vectors may reach beyond the last row.
  MapTile(const Cut& rows, const Cut& columns, int64_t channels)
      : rows_(rows), columns_(columns), data_(static_cast<size_t>(channels * step() + kLanes<C>)) {}

  int64_t row_step() const { return columns_.kept(); }
  int64_t step() const { return rows_.kept() * row_step(); }
  const C* data() const { return data_.data(); }

  // From `channel` on; a tile that begins at pixel (y, x), which may be outside. Channels that the map does not have
  // are zeros.
  void load(const StoredView<const C, 4>& map, const Geometry& geometry, int64_t n, int64_t channel, int64_t channels,
            int64_t y, int64_t x) {
    const int64_t there = std::clamp<int64_t>(geometry.channels - channel, 0, channels);
    std::fill(data_.begin() + there * step(), data_.begin() + channels * step(), C(0));
    for (int64_t run = 0; run < rows_.runs; ++run) {
      for (int64_t r = 0; r < rows_.run_length; ++r) {
        const int64_t row = y + rows_.first(run) + r * rows_.stride;
        C* const to = data_.data() + (run * rows_.run_length + r) * row_step();
        if (geometry.y.has(row) && there > 0) {
          load_row(map, geometry, n, channel, there, row, x, to);
        } else {
          for (int64_t c = 0; c < there; ++c) std::fill_n(to + c * step(), row_step(), C(0));
        }
      }
    }
  }

 private:
  void load_row(const StoredView<const C, 4>& map, const Geometry& geometry, int64_t n, int64_t channel,
                int64_t channels, int64_t row, int64_t x, C* to) const {
    const int64_t width = geometry.x.size, stride = columns_.stride;
    for (int64_t run = 0; run < columns_.runs; ++run, to += columns_.run_length) {
      const int64_t first = x + columns_.first(run), length = columns_.run_length;
      const int64_t begin = std::clamp<int64_t>(ceil_divide(-first, stride), 0, length);
      const int64_t end = std::clamp<int64_t>(ceil_divide(width - first, stride), begin, length);
      for (int64_t c = 0; c < channels; ++c) {
        std::fill_n(to + c * step(), begin, C(0));
        std::fill_n(to + c * step() + end, length - end, C(0));
      }
      if (begin == end) continue;
      const Stored<const C> pixels = map.at(n, channel, row, first + begin * stride);
      if (map.strides[1] == 1 && map.strides[3] != 1) {
        load_pixels(pixels, stride * map.strides[3], channels, end - begin, to + begin);
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          load_run(pixels + c * map.strides[1], stride * map.strides[3], end - begin, to + c * step() + begin);
        }
      }
    }
  }

  // Channels innermost: pixel by pixel.
  void load_pixels(const Stored<const C>& pixels, int64_t stride, int64_t channels, int64_t count, C* to) const {
    dispatch_storage<C>(pixels.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* from = pixels.template as<T>();
      const int64_t between = step();
      for (int64_t i = 0; i < count; ++i, from += stride) {
        for (int64_t c = 0; c < channels; ++c) to[c * between + i] = widen(from[c]);
      }
    });
  }

  const Cut rows_, columns_;
  ScratchVector<C> data_;
};

// ---- add_products ---------------------------------------------------------------------------------------------------

// sums[q] += the sum over channels of one[c] * other[c + begins[q]], for Count displacements and a vector of columns.
template <int Count, class C>
[[gnu::noinline]] void add_products(const C* one, int64_t one_step, const C* other, int64_t other_step,
                                    const int64_t* begins, int64_t channels, C* sums, int64_t sums_step) {
  Lanes<C> total[Count];
  const C* others[Count];
  for (int q = 0; q < Count; ++q) {
    total[q] = load_lanes(sums + q * sums_step);
    others[q] = other + begins[q];
  }
  for (int64_t c = 0; c < channels; ++c) {
    const Lanes<C> x = load_lanes(one + c * one_step);
#pragma GCC unroll 16
    for (int q = 0; q < Count; ++q) total[q] += x * load_lanes(others[q] + c * other_step);
  }
  for (int q = 0; q < Count; ++q) store_lanes(total[q], sums + q * sums_step);
}

// The same for any number of displacements.
template <class C>
void add_all_products(const C* one, int64_t one_step, const C* other, int64_t other_step,
                      const std::vector<int64_t>& begins, int64_t channels, C* sums, int64_t sums_step) {
  const int64_t count = static_cast<int64_t>(begins.size());
  for (int64_t q = 0; q < count;) {
    const auto add = [&](auto some) {
      add_products<some.value>(one, one_step, other, other_step, begins.data() + q, channels, sums + q * sums_step,
                               sums_step);
      q += some.value;
    };
    // The number of displacements is odd.
    if (count - q >= 9) {
      add(std::integral_constant<int, 9>());
    } else if (count - q >= 7) {
      add(std::integral_constant<int, 7>());
    } else if (count - q >= 3) {
      add(std::integral_constant<int, 3>());
    } else {
      add(std::integral_constant<int, 1>());
    }
  }
}

// ---- sum_displacements ----------------------------------------------------------------------------------------------

// Channels that a gradient is made of at a time.
inline constexpr int64_t kGradChannels = 8;

// A vector of columns of kGradChannels channels: sums[c] = the sum over displacements of weights[p, q] times the
// channel's pixel there. rows and begins: where each displacement's pixels begin.
template <class C>
[[gnu::noinline]] void sum_displacements(const C* weights, int64_t weights_step, const C* pixels, int64_t step,
                                         const std::vector<int64_t>& rows, const std::vector<int64_t>& begins, C* sums,
                                         int64_t sums_step) {
  Lanes<C> total[kGradChannels] = {};
  const int64_t count = static_cast<int64_t>(begins.size());
  for (const int64_t row : rows) {
    for (int64_t q = 0; q < count; ++q, weights += weights_step) {
      const Lanes<C> weight = load_lanes(weights);
      const C* const from = pixels + row + begins[static_cast<size_t>(q)];
#pragma GCC unroll 8
      for (int64_t c = 0; c < kGradChannels; ++c) total[c] += weight * load_lanes(from + c * step);
    }
  }
  for (int64_t c = 0; c < kGradChannels; ++c) store_lanes(total[c], sums + c * sums_step);
}

}  // namespace handgrad::correlation
