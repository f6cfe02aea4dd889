// What a thread of the CPU has of the maps: of the second, pixels with channels innermost, so that a product is a loop
// over channels, and neighbours of a row lie one behind the other; of the first, the same of a run of pixels. Channels
// are filled up with zeros to whole vectors.
//
// In order of appearance: MapPixels, FeatureRun; add_products, add_pixels, scatter_pixels, the loops over channels of a
// window.
#pragma once

#include <algorithm>

#include "correlation_lookup_host.h"
#include "cpu/lanes.h"
#include "cpu/parallel.h"
#include "math/stored.h"

namespace handgrad::correlation_lookup {

template <class C>
int64_t padded(int64_t channels) {
  return (channels + kLanes<C> - 1) / kLanes<C> * kLanes<C>;
}

// `count` pixels, `stride` apart, of `channels` channels from `channel` on: to[i * step + c].
template <class C>
void load_pixels(const StoredView<const C, 4>& map, int64_t n, int64_t channel, int64_t channels, int64_t row,
                 int64_t column, int64_t count, C* to, int64_t step) {
  dispatch_storage<C>(map.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = map.at(n, channel, row, column).template as<T>();
    const int64_t of_channel = map.strides[1], of_column = map.strides[3];
    if (of_channel == 1) {
      for (int64_t i = 0; i < count; ++i) load_run(from + i * of_column, 1, channels, to + i * step);
    } else {
      // A few channels of a run of pixels at a time: what is read of a row is read while it is in the cache.
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t i = 0; i < count; ++i) to[i * step + c] = widen(from[c * of_channel + i * of_column]);
      }
    }
  });
}

// ---- MapPixels ------------------------------------------------------------------------------------------------------

// The second map, or a direction of it: where it is, if its channels lie so already, or a copy.
template <class C>
class MapPixels {
 public:
  MapPixels(const Geometry& geometry, const Tensor* tensor) {
    if (!tensor) return;
    const StoredView<const C, 4> map = stored_view<C, 4>(*tensor);
    const int64_t channels = padded<C>(geometry.channels);
    if (tensor->scalar_type() == kDtype<C> && map.strides[1] == 1 && channels == geometry.channels) {
      data_ = map.first.template as<C>();
      image_ = map.strides[0], row_ = map.strides[2], column_ = map.strides[3];
      return;
    }
    column_ = channels, row_ = channels * geometry.map_width, image_ = row_ * geometry.map_height;
    copy_.resize(static_cast<size_t>(geometry.batch * image_));
    data_ = copy_.data();
    parallel_for(geometry.batch * geometry.map_height, row_, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        load_pixels(map, index / geometry.map_height, 0, geometry.channels, index % geometry.map_height, 0,
                    geometry.map_width, copy_.data() + index * row_, column_);
      }
    });
  }
  explicit operator bool() const { return data_; }
  const C* at(int64_t n, int64_t row, int64_t column) const {
    return data_ + n * image_ + row * row_ + column * column_;
  }
  int64_t column_step() const { return column_; }

 private:
  const C* data_ = nullptr;
  int64_t image_ = 0, row_ = 0, column_ = 0;
  ScratchVector<C> copy_;
};

// ---- FeatureRun -----------------------------------------------------------------------------------------------------

// Pixels of the first map, or of a direction of it; some channels of them.
template <class C>
class FeatureRun {
 public:
  FeatureRun(int64_t most, int64_t channels) : step_(padded<C>(channels)), data_(static_cast<size_t>(most * step_)) {}

  void load(const StoredView<const C, 4>& map, int64_t n, int64_t channel, int64_t channels, int64_t row,
            int64_t column, int64_t count) {
    load_pixels(map, n, channel, channels, row, column, count, data_.data(), step_);
    for (int64_t i = 0; channels < step_ && i < count; ++i) {
      std::fill(data_.data() + i * step_ + channels, data_.data() + (i + 1) * step_, C(0));
    }
  }
  const C* at(int64_t i) const { return data_.data() + i * step_; }
  int64_t channels() const { return step_; }

 private:
  int64_t step_;
  ScratchVector<C> data_;
};

// ---- the loops over channels ----------------------------------------------------------------------------------------

template <int Count, class C>
[[gnu::noinline]] void add_some_products(const C* features, int64_t channels, const C* pixels, int64_t step, C scale,
                                         C* products, int64_t products_step) {
  Lanes<C> totals[Count] = {};
  for (int64_t c = 0; c < channels; c += kLanes<C>) {
    const Lanes<C> x = load_lanes(features + c);
#pragma GCC unroll 8
    for (int k = 0; k < Count; ++k) totals[k] += x * load_lanes(pixels + k * step + c);
  }
  for (int k = 0; k < Count; ++k) products[k * products_step] += scale * sum_lanes<C>(totals[k]);
}

// products[j, i] += the product of the features with pixel (i, j) of the window, times scale.
template <class C>
void add_products(const Geometry& geometry, const Window<C>& window, const C* features, int64_t channels,
                  const MapPixels<C>& map, int64_t n, C* products) {
  const C scale = static_cast<C>(geometry.scale);
  const int64_t step = map.column_step(), side = geometry.side();
  for (int64_t i = window.first_row; i < window.last_row; ++i) {
    for (int64_t j = window.first_column; j < window.last_column;) {
      const C* const pixels = map.at(n, window.row + i, window.column + j);
      C* const to = products + j * side + i;
      if (window.last_column - j >= 5) {
        add_some_products<5>(features, channels, pixels, step, scale, to, side), j += 5;
      } else if (window.last_column - j >= 2) {
        add_some_products<2>(features, channels, pixels, step, scale, to, side), j += 2;
      } else {
        add_some_products<1>(features, channels, pixels, step, scale, to, side), j += 1;
      }
    }
  }
}

// sums[c] += the sum over the window of factors[j, i] times the pixel's channel c.
template <class C>
[[gnu::noinline]] void add_pixels(const Geometry& geometry, const Window<C>& window, const C* factors,
                                  const MapPixels<C>& map, int64_t n, int64_t channels, C* sums) {
  const int64_t step = map.column_step(), side = geometry.side();
  for (int64_t i = window.first_row; i < window.last_row; ++i) {
    const C* const pixels = map.at(n, window.row + i, window.column);
    for (int64_t c = 0; c < channels; c += kLanes<C>) {
      Lanes<C> total = load_lanes(sums + c);
      for (int64_t j = window.first_column; j < window.last_column; ++j) {
        total += factors[j * side + i] * load_lanes(pixels + j * step + c);
      }
      store_lanes<C>(total, sums + c);
    }
  }
}

// What add_pixels reads is added to: pixel (i, j) of an image of `channels` channels gets factors[j, i] * features.
template <class C>
[[gnu::noinline]] void scatter_pixels(const Geometry& geometry, const Window<C>& window, const C* factors,
                                      const C* features, int64_t channels, C* image) {
  const int64_t side = geometry.side();
  for (int64_t i = window.first_row; i < window.last_row; ++i) {
    C* const pixels = image + ((window.row + i) * geometry.map_width + window.column) * channels;
    for (int64_t j = window.first_column; j < window.last_column; ++j) {
      const C factor = factors[j * side + i];
      // Of an infinite feature too: a point on whole pixels has a row and a column of zeros.
      if (factor == 0) continue;
      for (int64_t c = 0; c < channels; c += kLanes<C>) {
        store_lanes<C>(load_lanes(pixels + j * channels + c) + factor * load_lanes(features + c),
                       pixels + j * channels + c);
      }
    }
  }
}

}  // namespace handgrad::correlation_lookup
