// What the bins of boxes weigh the pixels of an image by, on the CPU.
//
// A bin is a product of two short lists: rows of pixels with their weights, and columns with theirs. The lists are made
// once for each box, and serve all channels.
//
// In order of appearance: Tap, a row or column in a bin; Taps, those of one bin; BoxTaps, those of one box;
// BoxesByImage, something of every box, in the order of images; for_each_box, the loop over them.
#pragma once

#include <vector>

#include "abi/check.h"
#include "abi/view.h"
#include "cpu/channel_blocks.h"
#include "cpu/parallel.h"
#include "math/box_axis.h"

namespace handgrad {

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

  // Of a BoxAxis, or of what has the same questions answered.
  template <class Axis>
  void build(const Axis& axis_h, const Axis& axis_w) {
    is_nonfinite = axis_h.is_nonfinite || axis_w.is_nonfinite;
    const size_t bins = static_cast<size_t>(axis_h.pooled_size) + static_cast<size_t>(axis_w.pooled_size);
    starts_.reserve(bins + 1);
    starts_.push_back(0);
    pooled_h_ = axis_h.pooled_size;
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

  template <class Axis>
  void add(const Axis& axis) {
    for (int32_t p = 0; p < axis.pooled_size; ++p) {
      const int32_t begin = axis.begin(p), end = axis.end(p);
      const C share = begin < end ? axis.share(p) : C(0);
      for (int32_t i = begin; i < end; ++i) {
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

// Something of each box, with those of each image in a row. PerBox has the `window` of the image that it touches.
template <class PerBox>
class BoxesByImage {
 public:
  // `geometry` tells how many boxes and images there are, and boxes' first column from a batch index. build(k, box)
  // makes what there is to be of box k, at the price of `elements` elements.
  template <class C, class Geometry, class Build>
  BoxesByImage(const char* op, const Geometry& geometry, const View<const C, 2>& table, int64_t elements,
               const Build& build)
      : made_(static_cast<size_t>(geometry.boxes)),
        order_(static_cast<size_t>(geometry.boxes)),
        starts_(static_cast<size_t>(geometry.batch) + 1) {
    std::vector<int32_t> images(order_.size());
    for (int64_t k = 0; k < geometry.boxes; ++k) {
      const int32_t image = geometry.batch_index(*table.at(k, 0));
      HANDGRAD_CHECK(image >= 0, op, ": boxes must have a batch index in their first column, at least 0 and below ",
                     geometry.batch, "; got ", *table.at(k, 0), " in row ", k);
      images[static_cast<size_t>(k)] = image;
      ++starts_[static_cast<size_t>(image + 1)];
    }
    for (size_t n = 1; n < starts_.size(); ++n) starts_[n] += starts_[n - 1];
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (int64_t k = 0; k < geometry.boxes; ++k) {
      order_[static_cast<size_t>(next[static_cast<size_t>(images[static_cast<size_t>(k)])]++)] = k;
    }
    parallel_for(geometry.boxes, elements, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) build(k, made_[static_cast<size_t>(k)]);
    });
  }

  // body(k, what there is of it) for the boxes of image n, in their order.
  template <class Body>
  void for_each(int64_t n, const Body& body) const {
    for (int64_t i = starts_[static_cast<size_t>(n)]; i < starts_[static_cast<size_t>(n + 1)]; ++i) {
      const int64_t k = order_[static_cast<size_t>(i)];
      body(k, made_[static_cast<size_t>(k)]);
    }
  }

  // What they touch of it.
  PixelWindow window(int64_t n) const {
    PixelWindow all;
    for_each(n, [&](int64_t, const PerBox& box) { all.add(box.window); });
    return all;
  }

 private:
  std::vector<PerBox> made_;
  // The boxes of image n, in their order, are order_[starts_[n]] … order_[starts_[n + 1] - 1].
  std::vector<int64_t> order_, starts_;
};

// For every block of channels of every image: pass.begin(block, window), pass.box(k, what there is of it) for each box
// of the image, pass.end(). make_pass() gives a thread its own. `geometry` has the sizes of a call.
template <int64_t Width, class Geometry, class PerBox, class MakePass>
void for_each_box(const Geometry& geometry, const BoxesByImage<PerBox>& boxes, const MakePass& make_pass) {
  const int64_t pixels = int64_t{geometry.height} * geometry.width;
  const int64_t elements = Width * std::max(pixels, geometry.bins());
  for_each_block_range<Width>(geometry.batch, geometry.channels, elements, [&](int64_t begin, int64_t end) {
    auto pass = make_pass();
    for (int64_t index = begin; index < end; ++index) {
      const ChannelBlock block = channel_block<Width>(geometry.batch, geometry.channels, index);
      pass.begin(block, boxes.window(block.n));
      boxes.for_each(block.n, [&](int64_t k, const PerBox& box) { pass.box(k, box); });
      pass.end();
    }
  });
}

}  // namespace handgrad
