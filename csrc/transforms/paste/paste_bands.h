// An output cut into bands of rows and stretches of columns that show the same rectangles, on the CPU: what is to be
// done is decided once for each, and then done in long runs.
//
// In order of appearance: bands of an image; memory of an operand; a part of an image, with runs as long as memory has
// them.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/parallel.h"
#include "math/convert.h"
#include "paste_host.h"

namespace handgrad::paste {

// ---- bands ----------------------------------------------------------------------------------------------------------

// Columns [begin, end), which show the rectangles of `layers`, a bit each.
struct Stretch {
  int64_t begin, end;
  uint32_t layers;
};
struct Band {
  int64_t top, bottom;
  std::vector<Stretch> stretches;
};

// All bands of an image.
struct Bands {
  std::vector<Rectangle> rectangles;
  std::vector<Band> bands;

  Bands(const Frame& frame, const Tables& tables, int64_t n) {
    std::vector<int64_t> rows{0, frame.out_height}, columns{0, frame.out_width};
    for (int r = 0; r < frame.rectangles; ++r) {
      const Rectangle made = tables.rectangles.rectangle(frame, n, r);
      rectangles.push_back(made);
      rows.insert(rows.end(), {made.top, made.bottom});
      columns.insert(columns.end(), {made.left, made.right});
    }
    sort(rows);
    sort(columns);
    for (size_t i = 0; i + 1 < rows.size(); ++i) {
      Band band{rows[i], rows[i + 1], {}};
      for (size_t j = 0; j + 1 < columns.size(); ++j) add(band, columns[j], columns[j + 1], frame.opaque());
      bands.push_back(std::move(band));
    }
  }

  const Band& of_row(int64_t y) const {
    size_t index = 0;
    while (bands[index].bottom <= y) ++index;
    return bands[index];
  }

 private:
  static void sort(std::vector<int64_t>& edges) {
    std::sort(edges.begin(), edges.end());
    edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  }
  void add(Band& band, int64_t begin, int64_t end, int32_t opaque) const {
    uint32_t covering = 0;
    for (size_t r = 0; r < rectangles.size(); ++r) {
      if (rectangles[r].covers(band.top, begin)) covering |= uint32_t{1} << r;
    }
    const uint32_t layers = shown(covering, opaque);
    if (!band.stretches.empty() && band.stretches.back().layers == layers) {
      band.stretches.back().end = end;
    } else {
      band.stretches.push_back({begin, end, layers});
    }
  }
};

// body(n, bands, band, top, bottom) for the rows of all images, split over threads.
template <class Body>
void for_bands(const Frame& frame, const Tables& tables, const Body& body) {
  const int64_t rows = frame.out_height;
  parallel_for(frame.batch * rows, frame.channels * frame.out_width, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin / rows; n * rows < end; ++n) {
      const Bands bands(frame, tables, n);
      const int64_t first = std::max(begin - n * rows, int64_t{0}), last = std::min(end - n * rows, rows);
      for (const Band& band : bands.bands) {
        const int64_t top = std::max(band.top, first), bottom = std::min(band.bottom, last);
        if (top < bottom) body(n, bands, band, top, bottom);
      }
    }
  });
}

// The lowest rectangle of `layers`, and those above it.
inline int lowest(uint32_t layers) { return __builtin_ctz(layers); }
inline uint32_t without_lowest(uint32_t layers) { return layers & (layers - 1); }

// ---- memory ---------------------------------------------------------------------------------------------------------

// Where an operand of a part begins, and its strides along channels, rows and columns.
template <class P>
struct Operand {
  P* data;
  int64_t channel, row, column;

  P* at(int64_t c, int64_t y) const { return data + c * channel + y * row; }
};

template <class T>
struct SourceViews {
  View<const T, 4> views[kSources];  // [N, C, H, W] each

  explicit SourceViews(const Sources& sources) {
    for (int k = 0; k < kSources; ++k) {
      if (sources[k]) {
        views[k] = detail::view_at<const T, 4>(static_cast<const T*>(sources[k]->const_data_ptr()), *sources[k]);
      }
    }
  }
  explicit operator bool() const {
    return std::any_of(views, views + kSources, [](const auto& view) { return static_cast<bool>(view); });
  }
  bool has(const Rectangle& rectangle) const {
    return rectangle.source < kSources && static_cast<bool>(views[rectangle.source]);
  }
  // What comes to row y and column x of the output.
  Operand<const T> at(const Rectangle& rectangle, int64_t y, int64_t x) const {
    const View<const T, 4>& view = views[rectangle.source];
    return {view.at(rectangle.image, 0, y + rectangle.down, x + rectangle.across), view.strides[1], view.strides[2],
            view.strides[3]};
  }
};

template <class T>
Operand<T> operand_of(const View<T, 4>& view, int64_t n, int64_t y, int64_t x) {
  return {view.at(n, 0, y, x), view.strides[1], view.strides[2], view.strides[3]};
}

// ---- parts ----------------------------------------------------------------------------------------------------------

// Channels, rows and columns that are walked through, in runs of columns.
struct Part {
  int64_t channels, rows, columns;

  // Pixels whose channels lie side by side are one run in all operands; so are rows without gaps between them.
  template <class... P>
  void merge(Operand<P>&... operands) {
    const int64_t count = channels;
    if (count > 1 && ((operands.channel == 1 && operands.column == count) && ...)) {
      columns *= count, channels = 1;
      ((operands.column = 1), ...);
    }
    if (((operands.column == 1 && operands.row == columns) && ...)) {
      columns *= rows, rows = 1;
    }
  }
  template <class Body>
  void for_runs(const Body& body) const {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t y = 0; y < rows; ++y) body(c, y);
    }
  }
};

}  // namespace handgrad::paste
