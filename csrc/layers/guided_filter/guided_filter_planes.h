// What the passes of a guided filter read and how they are cut into tiles.
//
// A Team does the work of one tile: a thread of the CPU, or a block of a device. It has
//   each(begin, end, body)            body(i) for those indices; a thread of a block always takes the same
//   cells(rows, width, body)          body(row, column) for each of them
//   chunk(count)                      so many indices are worth staying with while planes are walked over
//   sync()                            what one thread has written, all others may read
//   pixel(at), write(at, value)       elements of memory whose type is known at run time only
//   get(at), put(at, value)           numbers of the passes' own, between one and the next
//   load(source, box, to)             the pixels of a source (below), rows `pitch` apart
//   sum(rows, width, body)            in double, for the thread that `leads()`
//
// In order of appearance: planes; how images are cut; sources.
#pragma once

#include <algorithm>

#include "guided_filter_math.h"
#include "math/stored.h"
#include "math/window_tile.h"

namespace handgrad::guided_filter {

template <class N>
inline constexpr bool kIsDual = !std::is_same_v<N, Plain<N>>;
template <class N>
inline constexpr int64_t kParts = kIsDual<N> ? 2 : 1;

// ---- planes ---------------------------------------------------------------------------------------------------------

// Numbers next to each other, the tangents of dual ones `apart` from them.
template <class N>
struct Plane {
  using C = Plain<N>;
  C* first;
  int64_t apart;

  HANDGRAD_MATH N at(int32_t i) const {
    if constexpr (kIsDual<N>) {
      return N(first[i], first[i + apart]);
    } else {
      return first[i];
    }
  }
  HANDGRAD_MATH void set(int32_t i, N value) const {
    first[i] = value_of(value);
    if constexpr (kIsDual<N>) first[i + apart] = value.tangent;
  }
  HANDGRAD_MATH Plane operator+(int64_t numbers) const { return {first + numbers, apart}; }
};

template <class N>
struct Planes {
  Plane<N> plane;
  int64_t size;

  HANDGRAD_MATH Plane<N> operator[](int64_t k) const { return plane + k * size; }
};

// ---- tiles ----------------------------------------------------------------------------------------------------------

// Positions that a tile takes of an axis, and what they see of it.
struct Span {
  int64_t first = 0, inside = 0;  // of the positions, and of those that are pixels
  int32_t count = 0, inside_count = 0;
  int32_t before = 0, taps = 1;  // a position p sees [p - before, p - before + taps)

  HANDGRAD_MATH int32_t seen() const { return count + taps - 1; }
};

// An axis cut into tiles. `back`: from windows to the pixels that they see, behind a border that folds too; what is got
// there goes to a pixel of the same tile, which is no smaller than a window.
struct Cut {
  int64_t size = 0, tiles = 1;
  int32_t taps = 1, before = 0;
  bool folds = false;

  static Cut of(const Axis& axis, int32_t extent, bool back, Border border) {
    const int64_t least = extent > axis.taps ? extent : axis.taps, tiles = axis.size / least;
    return {axis.size, tiles > 0 ? tiles : 1, axis.taps, back ? axis.after() : axis.before(),
            back && handgrad::folds(border)};
  }
  HANDGRAD_MATH int64_t begin(int64_t tile) const { return size * tile / tiles; }
  HANDGRAD_MATH int64_t widest() const { return (size + tiles - 1) / tiles + (folds ? taps - 1 : 0); }
  HANDGRAD_MATH Span span(int64_t tile) const {
    Span span;
    span.inside = begin(tile);
    const int64_t end = begin(tile + 1), last = folds && tile + 1 == tiles ? end + before : end;
    span.inside_count = static_cast<int32_t>(end - span.inside);
    span.first = folds && tile == 0 ? span.inside - (taps - 1 - before) : span.inside;
    span.count = static_cast<int32_t>(last - span.first);
    span.before = before, span.taps = taps;
    return span;
  }
};

struct Tile {
  int64_t image;
  Span rows, columns;
  int32_t pitch;
  // Of numbers: those of all pixels that are seen, and of all positions.
  HANDGRAD_MATH int32_t seen() const { return rows.seen() * pitch; }
  HANDGRAD_MATH int32_t count() const { return (rows.count - 1) * pitch + columns.count; }
};

struct Grid {
  Cut rows, columns;

  HANDGRAD_MATH int64_t tiles() const { return rows.tiles * columns.tiles; }
  // The most numbers of a plane of scratch.
  HANDGRAD_MATH int64_t plane() const {
    return (rows.widest() + rows.taps - 1) * (columns.widest() + columns.taps - 1);
  }
  // Whatever is counted is so of an image, or a plane of one.
  HANDGRAD_MATH Tile tile(int64_t item) const {
    const int64_t image = item / tiles(), rest = item - image * tiles(), row = rest / columns.tiles;
    Tile tile{image, rows.span(row), columns.span(rest - row * columns.tiles), 0};
    tile.pitch = tile.columns.seen();
    return tile;
  }
};

// What is loaded: so many rows and columns from the first ones on, of an image of `height` x `width` with a border.
struct Box {
  int64_t y, x;
  int32_t rows, columns, pitch;
  int64_t height, width;
  Border border;
};

// ---- sources --------------------------------------------------------------------------------------------------------

// A source has at(team, y, x), a pixel, and for a thread of the CPU row(team, y, x, count, to), some of a row.

// A plane of the passes' own.
template <class C>
struct PlaneSource {
  const C* plane;
  int64_t width;

  template <class Team>
  HANDGRAD_TEAM C at(Team& team, int64_t y, int64_t x) const {
    return team.get(plane + y * width + x);
  }
  template <class Team>
  void row(Team&, int64_t y, int64_t x, int64_t count, C* to) const {
    std::copy_n(plane + y * width + x, count, to);
  }
};

// A channel of an image less `shift`, the pixels that are left of it; of no image zeros.
template <class C>
struct ImageSource {
  StoredView<const C, 4> view;
  int64_t n, c;
  Axis rows, columns;
  C shift;

  template <class Team>
  HANDGRAD_TEAM C at(Team& team, int64_t y, int64_t x) const {
    return view ? team.pixel(view.at(n, c, rows.pixel(y), columns.pixel(x))) - shift : C(0);
  }
  template <class Team>
  void row(Team& team, int64_t y, int64_t x, int64_t count, C* to) const {
    if (view && columns.subsample == 1) {
      load_run(view.at(n, c, rows.pixel(y), x), view.strides[3], count, to);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) to[i] -= shift;
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = at(team, y, x + i);
    }
  }
};

// A plane enlarged to the pixels of the image.
template <class C>
struct EnlargedSource {
  const C* plane;
  Axis rows, columns;

  template <class Team>
  HANDGRAD_TEAM C between(Team& team, const C* row, const Between& two) const {
    const C low = team.get(row + two.low), high = team.get(row + two.high);
    return low + static_cast<C>(two.weight) * (high - low);
  }
  template <class Team>
  HANDGRAD_TEAM C at(Team& team, int64_t y, int64_t x) const {
    if (rows.subsample == 1) return team.get(plane + y * columns.size + x);
    const Between down = rows.between(y), right = columns.between(x);
    const C low = between(team, plane + down.low * columns.size, right);
    const C high = between(team, plane + down.high * columns.size, right);
    return low + static_cast<C>(down.weight) * (high - low);
  }
  template <class Team>
  void row(Team& team, int64_t y, int64_t x, int64_t count, C* to) const {
    if (rows.subsample == 1) return PlaneSource<C>{plane, columns.size}.row(team, y, x, count, to);
    for (int64_t i = 0; i < count; ++i) to[i] = at(team, y, x + i);
  }
};

// What the pixels that are left of an image have in a plane; the others have nothing.
template <class C>
struct LeftSource {
  const C* plane;
  Axis rows, columns;

  template <class Team>
  HANDGRAD_TEAM C at(Team& team, int64_t y, int64_t x) const {
    const int64_t row = rows.index(y), column = columns.index(x);
    return row < 0 || column < 0 ? C(0) : team.get(plane + row * columns.size + column);
  }
  template <class Team>
  void row(Team& team, int64_t y, int64_t x, int64_t count, C* to) const {
    if (rows.subsample == 1) return PlaneSource<C>{plane, columns.size}.row(team, y, x, count, to);
    for (int64_t i = 0; i < count; ++i) to[i] = at(team, y, x + i);
  }
};

// The gradient of the output, times a channel of the guidance less `shift` or by itself, back through the enlargement.
template <class C>
struct ProductSource {
  ImageSource<C> grad, factor;
  Axis rows, columns;
  bool is_product;

  template <class Team>
  HANDGRAD_TEAM C product(Team& team, int64_t y, int64_t x) const {
    const C own = grad.at(team, y, x);
    return is_product ? own * factor.at(team, y, x) : own;
  }
  template <class Team>
  HANDGRAD_TEAM C at(Team& team, int64_t y, int64_t x) const {
    if (rows.subsample == 1) return product(team, y, x);
    C total = 0;
    for (int64_t v = rows.first_of(y); v < rows.last_of(y); ++v) {
      const C down = static_cast<C>(rows.part(v, y));
      if (down == 0) continue;
      for (int64_t u = columns.first_of(x); u < columns.last_of(x); ++u) {
        const C right = static_cast<C>(columns.part(u, x));
        if (right != 0) total += down * right * product(team, v, u);
      }
    }
    return total;
  }
  template <class Team>
  void row(Team& team, int64_t y, int64_t x, int64_t count, C* to) const {
    if (rows.subsample > 1) {
      for (int64_t i = 0; i < count; ++i) to[i] = at(team, y, x + i);
      return;
    }
    constexpr int64_t kRun = 256;
    grad.row(team, y, x, count, to);
    C values[kRun];
    for (int64_t begin = 0; is_product && begin < count; begin += kRun) {
      const int64_t run = begin + kRun < count ? kRun : count - begin;
      factor.row(team, y, x + begin, run, values);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < run; ++i) to[begin + i] *= values[i];
    }
  }
};

}  // namespace handgrad::guided_filter
