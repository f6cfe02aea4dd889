// What the bins of rotated boxes weigh the pixels of an image by, on the CPU: a list of pixels for each bin. Where
// sampling points are so near each other that they share pixels, each pixel is in the list once.
//
// Lists serve all channels, and are kept while all blocks of these pass, if they are small; those of boxes with many
// points are made again for each block.
//
// In order of appearance: PixelTap; BoxTaps, the lists of one box; TapBuilder, which makes them; BoxInImage and
// boxes_in_images, what is kept of all boxes.
#pragma once

#include <optional>

#include "roi_align_rotated_points.h"

namespace handgrad::roi_align_rotated {

template <class C>
struct PixelTap {
  int32_t y, x;
  C weight;
};

template <class C>
struct BoxTaps {
  std::vector<PixelTap<C>> taps;
  // The taps of bin b are taps[starts[b]] … taps[starts[b + 1] - 1].
  std::vector<size_t> starts;
};

template <class C>
class TapBuilder {
 public:
  // At most so many taps will a box have.
  static double estimate(const TurnedBox<C>& box) {
    const Cells cells(box);
    const double bins = static_cast<double>(box.rows.pooled_size) * box.columns.pooled_size;
    return bins * std::min(4 * points_of(box), static_cast<double>(cells.rows) * cells.columns);
  }

  void build(const TurnedBox<C>& box, BoxTaps<C>& to) {
    const int32_t pooled_h = box.rows.pooled_size, pooled_w = box.columns.pooled_size;
    to.taps.clear(), to.starts.assign(1, 0);
    points_.begin(box);
    const Cells cells(box);
    const bool merges = points_of(box) >= 4 && static_cast<double>(cells.rows) * cells.columns <= 5 * points_of(box);
    for (int32_t p = 0; p < pooled_h; ++p) {
      if (merges) {
        merge(box, cells, p, to);
      } else {
        list(p, pooled_w, box.share(), to);
      }
    }
  }

 private:
  // The rectangle of the image around a bin, the same size for all of a box.
  struct Cells {
    C half_y, half_x;
    int32_t rows, columns;

    explicit Cells(const TurnedBox<C>& box) {
      const C bin_h = absolute(box.rows.bin_size), bin_w = absolute(box.columns.bin_size);
      const C cosine = absolute(box.cosine), sine = absolute(box.sine);
      half_y = C(0.5) * (bin_h * cosine + bin_w * sine) + box.rounding;
      half_x = C(0.5) * (bin_w * cosine + bin_h * sine) + box.rounding;
      rows = static_cast<int32_t>(std::min<C>(2 * half_y + 3, static_cast<C>(box.height)));
      columns = static_cast<int32_t>(std::min<C>(2 * half_x + 3, static_cast<C>(box.width)));
    }
    size_t count() const { return static_cast<size_t>(rows) * static_cast<size_t>(columns); }
  };

  static double points_of(const TurnedBox<C>& box) {
    return static_cast<double>(box.rows.bin_grid) * box.columns.bin_grid;
  }

  PointRow<C> points_;
  // Of the bins of a row: the sum of weights of each cell, negative where none has been added; and where cells begin.
  ScratchVector<C> cells_;
  std::vector<int32_t> first_rows_, first_columns_;
  std::vector<std::vector<PixelTap<C>>> lists_;

  void merge(const TurnedBox<C>& box, const Cells& cells, int32_t p, BoxTaps<C>& to) {
    const size_t bins = static_cast<size_t>(box.columns.pooled_size);
    cells_.assign(bins * cells.count(), C(-1));
    first_rows_.resize(bins), first_columns_.resize(bins);
    for (size_t q = 0; q < bins; ++q) {
      const auto along = [](const TurnedAxis<C>& axis, C bin) { return bin * axis.bin_size - C(0.5) * axis.length; };
      const Point<C> middle =
          box.point(along(box.rows, static_cast<C>(p) + C(0.5)), along(box.columns, static_cast<C>(q) + C(0.5)));
      first_rows_[q] = static_cast<int32_t>(std::clamp<C>(middle.y - cells.half_y, 0, box.height - 1));
      first_columns_[q] = static_cast<int32_t>(std::clamp<C>(middle.x - cells.half_x, 0, box.width - 1));
    }
    points_.for_each(p, [&](int64_t bin, const BoxPoint<C>& point) {
      const size_t q = static_cast<size_t>(bin);
      C* const own = cells_.data() + q * cells.count();
      for_each_corner(point.corners, [&](int32_t y, int32_t x, C weight) {
        C& cell = own[static_cast<size_t>(y - first_rows_[q]) * static_cast<size_t>(cells.columns) +
                      static_cast<size_t>(x - first_columns_[q])];
        cell = cell < 0 ? weight : cell + weight;
      });
    });
    const C share = box.share();
    const C* cell = cells_.data();
    for (size_t q = 0; q < bins; ++q) {
      for (int32_t y = 0; y < cells.rows; ++y) {
        for (int32_t x = 0; x < cells.columns; ++x, ++cell) {
          if (*cell >= 0) to.taps.push_back({first_rows_[q] + y, first_columns_[q] + x, share * *cell});
        }
      }
      to.starts.push_back(to.taps.size());
    }
  }

  void list(int32_t p, int32_t bins, C share, BoxTaps<C>& to) {
    lists_.resize(static_cast<size_t>(bins));
    for (auto& taps : lists_) taps.clear();
    points_.for_each(p, [&](int64_t q, const BoxPoint<C>& point) {
      for_each_corner(point.corners, [&](int32_t y, int32_t x, C weight) {
        lists_[static_cast<size_t>(q)].push_back({y, x, share * weight});
      });
    });
    for (const auto& taps : lists_) {
      to.taps.insert(to.taps.end(), taps.begin(), taps.end());
      to.starts.push_back(to.taps.size());
    }
  }

  // At the edge of the image two corners are one.
  template <class Body>
  [[gnu::always_inline]] static void for_each_corner(const Corners<C>& corners, const Body& body) {
    const int rows = corners.y[0] == corners.y[1] ? 1 : 2, columns = corners.x[0] == corners.x[1] ? 1 : 2;
    for (int a = 0; a < rows; ++a) {
      for (int b = 0; b < columns; ++b) body(corners.y[a], corners.x[b], corners.weight(2 * a + b));
    }
  }
};

// A box; what its points touch; and its taps, if they are kept.
template <class C>
struct BoxInImage {
  std::optional<TurnedBox<C>> box;
  PixelWindow window;
  std::optional<BoxTaps<C>> taps;

  void build(const TurnedBox<C>& turned, double most_taps) {
    box = turned;
    if (!turned.has_points()) return;
    const Point<C> half = turned.half_extents();
    range(turned.y, half.y, turned.height, window.row_begin, window.row_end);
    range(turned.x, half.x, turned.width, window.column_begin, window.column_end);
    if (window.is_empty() || TapBuilder<C>::estimate(turned) > most_taps) return;
    TapBuilder<C>().build(turned, taps.emplace());
  }

 private:
  static void range(C middle, C half, int32_t size, int64_t& begin, int64_t& end) {
    const C most = static_cast<C>(size);
    begin = static_cast<int64_t>(std::clamp(middle - half - 2, C(0), most));
    end = static_cast<int64_t>(std::clamp(middle + half + 2, C(0), most));
  }
};

template <class C>
using BoxesInImages = BoxesByImage<BoxInImage<C>>;

// `keeps` says whether taps will be asked for.
template <class C>
BoxesInImages<C> boxes_in_images(const Geometry& geometry, const Tensor& boxes, bool keeps) {  // [K, 6]
  constexpr double kKeptBytes = 32 * 1024 * 1024;
  const double each = keeps ? kKeptBytes / sizeof(PixelTap<C>) / std::max(geometry.boxes, 1) : 0.0;
  const View<const C, 2> table = view<C, 2>(boxes);
  return BoxesInImages<C>(geometry.op, geometry, table, keeps ? 64 * geometry.bins() : 64,
                          [&](int64_t k, BoxInImage<C>& box) { box.build(geometry.turned(box_at(table, k)), each); });
}

}  // namespace handgrad::roi_align_rotated
