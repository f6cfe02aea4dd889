// Images of a filter with a border, cut into strips of columns whose rows are kept in scratch memory with what is
// around them.
#pragma once

#include <algorithm>

#include "cpu/image_rows.h"
#include "math/border.h"
#include "math/convert.h"

namespace handgrad {

// How an axis of columns is cut. Bounds depend on shapes alone, and so do the sums that are made of rows of a strip.
struct BorderStrips {
  Border border;
  int64_t height, width, reach, strips;

  BorderStrips(Border border, int64_t height, int64_t width, int64_t reach)
      // Wide beside what windows reach; and a strip at the border has all that is seen behind it.
      : border(border),
        height(height),
        width(width),
        reach(reach),
        strips(std::max<int64_t>(1, width / std::max<int64_t>(384, 12 * reach))) {}

  int64_t begin(int64_t strip) const { return width * strip / strips; }
  int64_t widest() const { return (width + strips - 1) / strips; }

  // Columns [begin - pad, end + pad) of row y, which may be behind the border, to `to`; zeros of no image.
  template <class C>
  void load(const SourceRows& from, int64_t n, int64_t c, int64_t y, int64_t begin, int64_t end, int64_t pad,
            C* to) const {
    const int64_t row = border_index(border, y, height), first = begin - pad;
    if (!from || row < 0) {
      std::fill_n(to, end + pad - first, C(0));
      return;
    }
    const auto run = [&](int64_t x, int64_t count, int64_t target) {
      load_run(from.dtype, from.data, from.at(n, c, row, x), from.column, count, to + target - first);
    };
    const int64_t low = std::max<int64_t>(0, first), high = std::min(width, end + pad);
    run(low, high - low, low);
    const auto beyond = [&](int64_t x) {
      const int64_t seen = border_index(border, x, width);
      if (seen < 0) {
        to[x - first] = 0;
      } else {
        run(seen, 1, x);
      }
    };
    for (int64_t x = first; x < low; ++x) beyond(x);
    for (int64_t x = high; x < end + pad; ++x) beyond(x);
  }

  // give(from, to) for the columns behind the border that a strip sees, and where they are seen.
  template <class Give>
  void fold(int64_t begin, int64_t end, const Give& give) const {
    if (!folds(border)) return;
    if (begin == 0) {
      for (int64_t x = -reach; x < 0; ++x) give(x, border_index(border, x, width));
    }
    if (end == width) {
      for (int64_t x = width; x < width + reach; ++x) give(x, border_index(border, x, width));
    }
  }
  // body(seen) for the rows behind the border where row y is seen, of windows that reach so far.
  template <class Body>
  void for_sights(int64_t y, int64_t reach_of_rows, const Body& body) const {
    const Sights sights(border, y, height, reach_of_rows);
    for (int k = 1; k < 3; ++k) {
      for (int64_t seen = sights.first(k); seen < sights.last(k); ++seen) body(seen);
    }
  }
};

}  // namespace handgrad
