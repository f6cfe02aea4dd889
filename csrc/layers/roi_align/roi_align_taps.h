// What the bins of boxes weigh the pixels of an image by, on the CPU.
//
// A bin is a product of two short lists: rows of pixels with their weights, and columns with theirs. The lists are made
// once for each box, and serve all channels.
//
// In order of appearance: Tap, a row or column in a bin; Taps, those of one bin; BoxTaps, those of one box;
// BoxesByImage.
#pragma once

#include <vector>

#include "cpu/channel_blocks.h"
#include "cpu/parallel.h"
#include "roi_align_host.h"

namespace handgrad::roi_align {

// A row (or column) of pixels in a bin: its weight, and the derivatives of that with respect to the box's two
// coordinates on the axis.
template <class C>
struct Tap {
  int32_t pixel;
  C weight, d_first, d_second;
};

template <class C>
struct Taps {
  const Tap<C>* data;
  int64_t count;
};

// All taps of one box: rows of pooled_h bins, columns of pooled_w bins.
template <class C>
class BoxTaps {
 public:
  bool is_nonfinite = false;
  // What the taps touch.
  PixelWindow window;

  void build(const Geometry& geometry, const Box<C>& box) {
    const BoxAxis<C> axis_h = geometry.axis_h(box), axis_w = geometry.axis_w(box);
    is_nonfinite = axis_h.is_nonfinite || axis_w.is_nonfinite;
    const size_t bins = static_cast<size_t>(geometry.pooled_h) + static_cast<size_t>(geometry.pooled_w);
    starts_.reserve(bins + 1);
    starts_.push_back(0);
    pooled_h_ = geometry.pooled_h;
    if (is_nonfinite) {
      starts_.resize(bins + 1);
      return;
    }
    add(axis_h);
    const size_t middle = taps_.size();
    add(axis_w);
    range(0, middle, window.row_begin, window.row_end);
    range(middle, taps_.size(), window.column_begin, window.column_end);
  }

  Taps<C> rows(int64_t p) const { return bin(p); }
  Taps<C> columns(int64_t p) const { return bin(pooled_h_ + p); }

 private:
  std::vector<Tap<C>> taps_;
  // Where each bin's taps begin, and where the last one's end.
  std::vector<int64_t> starts_;
  int64_t pooled_h_ = 0;

  Taps<C> bin(int64_t b) const {
    const int64_t begin = starts_[static_cast<size_t>(b)], end = starts_[static_cast<size_t>(b + 1)];
    return {taps_.data() + begin, end - begin};
  }

  void add(const BoxAxis<C>& axis) {
    const C share = axis.bin_grid ? axis.share() : C(0);
    for (int32_t p = 0; p < axis.pooled_size; ++p) {
      const int32_t end = axis.end(p);
      for (int32_t i = axis.begin(p); i < end; ++i) {
        const AxisSample<C> sample = axis.sample(axis.point(p, i));
        const C first = sample.slope * axis.d_first(p, i) * share, second = sample.slope * axis.d_second(p, i) * share;
        add(sample.low, (1 - sample.weight) * share, -first, -second);
        if (sample.high != sample.low) add(sample.high, sample.weight * share, first, second);
      }
      starts_.push_back(static_cast<int64_t>(taps_.size()));
    }
  }

  // Neighbouring points share pixels: points are in order, so that the pixel is among the bin's last two, or new.
  void add(int32_t pixel, C weight, C d_first, C d_second) {
    const size_t begin = static_cast<size_t>(starts_.back()), end = taps_.size();
    for (size_t k = end; k-- > begin && k + 2 >= end;) {
      if (taps_[k].pixel != pixel) continue;
      taps_[k].weight += weight, taps_[k].d_first += d_first, taps_[k].d_second += d_second;
      return;
    }
    taps_.push_back({pixel, weight, d_first, d_second});
  }

  void range(size_t from, size_t to, int64_t& begin, int64_t& end) const {
    if (from == to) return;
    begin = taps_[from].pixel, end = begin + 1;
    for (size_t k = from; k < to; ++k) {
      begin = std::min<int64_t>(begin, taps_[k].pixel);
      end = std::max<int64_t>(end, taps_[k].pixel + 1);
    }
  }
};

// All boxes, with those of each image in a row.
template <class C>
class BoxesByImage {
 public:
  BoxesByImage(const Geometry& geometry, const Tensor& boxes)  // [K, 5]
      : taps_(static_cast<size_t>(geometry.boxes)),
        order_(static_cast<size_t>(geometry.boxes)),
        starts_(static_cast<size_t>(geometry.batch) + 1) {
    const View<const C, 2> table = view<C, 2>(boxes);
    std::vector<int32_t> images(order_.size());
    for (int64_t k = 0; k < geometry.boxes; ++k) {
      const int32_t image = geometry.batch_index(*table.at(k, 0));
      HANDGRAD_CHECK(image >= 0, kOp, ": boxes must have a batch index in their first column, at least 0 and below ",
                     geometry.batch, "; got ", *table.at(k, 0), " in row ", k);
      images[static_cast<size_t>(k)] = image;
      ++starts_[static_cast<size_t>(image + 1)];
    }
    for (size_t n = 1; n < starts_.size(); ++n) starts_[n] += starts_[n - 1];
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (int64_t k = 0; k < geometry.boxes; ++k) {
      order_[static_cast<size_t>(next[static_cast<size_t>(images[static_cast<size_t>(k)])]++)] = k;
    }
    const int64_t bins = int64_t{geometry.pooled_h} + geometry.pooled_w;
    parallel_for(geometry.boxes, 64 * bins, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        taps_[static_cast<size_t>(k)].build(geometry,
                                            {*table.at(k, 1), *table.at(k, 2), *table.at(k, 3), *table.at(k, 4)});
      }
    });
  }

  // body(k, taps) for the boxes of image n, in their order.
  template <class Body>
  void for_each(int64_t n, const Body& body) const {
    for (int64_t i = starts_[static_cast<size_t>(n)]; i < starts_[static_cast<size_t>(n + 1)]; ++i) {
      const int64_t k = order_[static_cast<size_t>(i)];
      body(k, taps_[static_cast<size_t>(k)]);
    }
  }

  // What they touch of it.
  PixelWindow window(int64_t n) const {
    PixelWindow all;
    for_each(n, [&](int64_t, const BoxTaps<C>& taps) { all.add(taps.window); });
    return all;
  }

 private:
  std::vector<BoxTaps<C>> taps_;
  // The boxes of image n, in their order, are order_[starts_[n]] … order_[starts_[n + 1] - 1].
  std::vector<int64_t> order_, starts_;
};

}  // namespace handgrad::roi_align
