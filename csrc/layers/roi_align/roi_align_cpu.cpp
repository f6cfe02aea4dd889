// RoIAlign on the CPU.
//
// A bin is a product of two short lists: rows with their weights, and columns with theirs; the lists are made once for
// each box. What they weigh is the same for all channels, so channels are innermost, in blocks of a few vectors: a
// block of an image is brought into the order (row, column, channel) if it does not lie so, as far as boxes reach, and
// then all boxes of the image pass over it.
//
// One block of one image is one thread's. So the gradient of the image is summed by one thread in the order of boxes,
// and its memory beside the results is one block.
#include <limits>

#include "abi/registration.h"
#include "cpu/parallel.h"
#include "math/convert.h"
#include "roi_align_host.h"

namespace handgrad {
namespace {

using namespace roi_align;

// Channels in a block: enough for whole vectors, few enough for a block of an image to stay in the cache. An image of
// few channels has a block that is not mostly empty.
constexpr int64_t kBlockChannels = 32, kFewChannels = 8;

// ---- boxes
// -----------------------------------------------------------------------------------------------------------

// A row (or column) of pixels in a bin: its weight, and how that changes with the box's two coordinates.
template <class C>
struct Tap {
  int64_t pixel;
  C weight, by_first, by_second;
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
  bool lost = false;
  // What the taps touch, [begin, end).
  int64_t row_begin = 0, row_end = 0, column_begin = 0, column_end = 0;

  void build(const Geometry& at, const Box<C>& box) {
    const BoxAxis<C> rows = box.rows(at), columns = box.columns(at);
    lost = rows.lost || columns.lost;
    starts_.reserve(static_cast<size_t>(rows.bins + columns.bins + 1));
    starts_.push_back(0);
    pooled_h_ = rows.bins;
    if (lost) {
      starts_.resize(static_cast<size_t>(rows.bins + columns.bins + 1));
      return;
    }
    add(rows);
    const size_t middle = taps_.size();
    add(columns);
    range(0, middle, row_begin, row_end);
    range(middle, taps_.size(), column_begin, column_end);
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
    const C share = axis.grid ? axis.share() : C(0);
    for (int64_t p = 0; p < axis.bins; ++p) {
      const int64_t end = axis.end(p);
      for (int64_t i = axis.begin(p); i < end; ++i) {
        const AxisSample<C> sample = axis.sample(axis.place(p, i));
        const C first = sample.slope * axis.by_first(p, i) * share,
                second = sample.slope * axis.by_second(p, i) * share;
        add(sample.low, (1 - sample.weight) * share, -first, -second);
        if (sample.high != sample.low) add(sample.high, sample.weight * share, first, second);
      }
      starts_.push_back(static_cast<int64_t>(taps_.size()));
    }
  }

  // Neighbouring places share pixels: places are in order, so that the pixel is among the bin's last two, or new.
  void add(int64_t pixel, C weight, C by_first, C by_second) {
    const size_t begin = static_cast<size_t>(starts_.back()), end = taps_.size();
    for (size_t k = end; k-- > begin && k + 2 >= end;) {
      if (taps_[k].pixel != pixel) continue;
      taps_[k].weight += weight, taps_[k].by_first += by_first, taps_[k].by_second += by_second;
      return;
    }
    taps_.push_back({pixel, weight, by_first, by_second});
  }

  void range(size_t from, size_t to, int64_t& begin, int64_t& end) const {
    if (from == to) return;
    begin = taps_[from].pixel, end = begin + 1;
    for (size_t k = from; k < to; ++k) {
      begin = std::min(begin, taps_[k].pixel);
      end = std::max(end, taps_[k].pixel + 1);
    }
  }
};

// The boxes, with those of each image in a row.
template <class C>
struct Boxes {
  std::vector<BoxTaps<C>> taps;
  // The boxes of image n, in their order, are order[starts[n]] … order[starts[n + 1] - 1].
  std::vector<int64_t> order, starts;

  Boxes(const Geometry& at, const Tensor& tensor)
      : taps(static_cast<size_t>(at.boxes)),
        order(static_cast<size_t>(at.boxes)),
        starts(static_cast<size_t>(at.batch + 1)) {
    const BoxTable<const C> table = box_table<C>(tensor);
    std::vector<int64_t> images(order.size());
    for (int64_t k = 0; k < at.boxes; ++k) {
      const int64_t image = row(table, k).image_of(at.batch);
      HANDGRAD_CHECK(image >= 0, kOp, ": boxes must have the number of an image of input in their first column, ",
                     "at least 0 and below ", at.batch, "; got ", *table.at(k, 0), " in row ", k);
      images[static_cast<size_t>(k)] = image;
      ++starts[static_cast<size_t>(image + 1)];
    }
    for (size_t n = 1; n < starts.size(); ++n) starts[n] += starts[n - 1];
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t k = 0; k < at.boxes; ++k) {
      order[static_cast<size_t>(next[static_cast<size_t>(images[static_cast<size_t>(k)])]++)] = k;
    }
    parallel_for(at.boxes, 64 * (at.options.pooled_h + at.options.pooled_w), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) taps[static_cast<size_t>(k)].build(at, row(table, k));
    });
  }

  const BoxTaps<C>& operator[](int64_t k) const { return taps[static_cast<size_t>(k)]; }

  static Box<C> row(const BoxTable<const C>& table, int64_t k) {
    return {*table.at(k, 0), *table.at(k, 1), *table.at(k, 2), *table.at(k, 3), *table.at(k, 4)};
  }
};

// What the boxes of one image touch of it.
struct Window {
  int64_t row_begin, row_end, column_begin, column_end;

  template <class C>
  Window(const Boxes<C>& boxes, int64_t n) : row_begin(0), row_end(0), column_begin(0), column_end(0) {
    bool first = true;
    for (int64_t i = boxes.starts[static_cast<size_t>(n)]; i < boxes.starts[static_cast<size_t>(n + 1)]; ++i) {
      const BoxTaps<C>& box = boxes[boxes.order[static_cast<size_t>(i)]];
      if (box.row_begin == box.row_end || box.column_begin == box.column_end) continue;
      row_begin = first ? box.row_begin : std::min(row_begin, box.row_begin);
      row_end = first ? box.row_end : std::max(row_end, box.row_end);
      column_begin = first ? box.column_begin : std::min(column_begin, box.column_begin);
      column_end = first ? box.column_end : std::max(column_end, box.column_end);
      first = false;
    }
  }

  int64_t rows() const { return row_end - row_begin; }
  int64_t columns() const { return column_end - column_begin; }
  int64_t pixels() const { return rows() * columns(); }
};

// ---- blocks of channels
// ----------------------------------------------------------------------------------------------

// Channels [first, first + count) of image n.
struct Unit {
  int64_t image, first, count;
};

// A block in the order (row, column, channel): pixel (y, x) of the image is Width numbers.
template <class C>
struct Plane {
  C* data = nullptr;
  int64_t row = 0, pixel = 0, row_begin = 0, column_begin = 0;

  C* at(int64_t y, int64_t x) const { return data + (y - row_begin) * row + (x - column_begin) * pixel; }
};

// Width lines of `positions` numbers, one behind the other, to groups of Width numbers; in squares that the compiler
// keeps in registers.
template <int64_t Width, class C>
void interleave(const C* __restrict from, int64_t line, int64_t positions, C* __restrict to) {
  constexpr int64_t side = 8;
  int64_t i = 0;
  for (; i + side <= positions; i += side) {
    for (int64_t c = 0; c < Width; c += side) {
      C square[side][side];
      for (int64_t a = 0; a < side; ++a) {
        for (int64_t b = 0; b < side; ++b) square[b][a] = from[(c + a) * line + i + b];
      }
      for (int64_t b = 0; b < side; ++b) {
        for (int64_t a = 0; a < side; ++a) to[(i + b) * Width + c + a] = square[b][a];
      }
    }
  }
  for (; i < positions; ++i) {
    for (int64_t c = 0; c < Width; ++c) to[i * Width + c] = from[c * line + i];
  }
}

// And back.
template <int64_t Width, class C>
void separate(const C* __restrict from, int64_t positions, C* __restrict to, int64_t line) {
  constexpr int64_t side = 8;
  int64_t i = 0;
  for (; i + side <= positions; i += side) {
    for (int64_t c = 0; c < Width; c += side) {
      C square[side][side];
      for (int64_t b = 0; b < side; ++b) {
        for (int64_t a = 0; a < side; ++a) square[a][b] = from[(i + b) * Width + c + a];
      }
      for (int64_t a = 0; a < side; ++a) {
        for (int64_t b = 0; b < side; ++b) to[(c + a) * line + i + b] = square[a][b];
      }
    }
  }
  for (; i < positions; ++i) {
    for (int64_t c = 0; c < Width; ++c) to[c * line + i] = from[i * Width + c];
  }
}

// Memory where one pixel is Width numbers, and what one channel after another comes from or goes to.
template <class C, int64_t Width>
struct Lines {
  std::vector<C> memory;
  int64_t length;

  explicit Lines(int64_t length) : memory(static_cast<size_t>(length * Width)), length(length) {}
};

// `positions` numbers of each of `count` channels, `channel` elements apart, to `positions` groups of Width. What is
// beyond `count` is 0.
template <int64_t Width, class T>
void load_channels(const T* from, int64_t channel, int64_t stride, int64_t count, int64_t positions,
                   Lines<Compute<T>, Width>& lines, Compute<T>* to) {
  using C = Compute<T>;
  if (channel == 1) {
    for (int64_t i = 0; i < positions; ++i) {
      load_run(from + i * stride, 1, count, to + i * Width);
      for (int64_t c = count; c < Width; ++c) to[i * Width + c] = C(0);
    }
    return;
  }
  const C* rows = lines.memory.data();
  int64_t step = lines.length;
  bool in_place = false;
  if constexpr (std::is_same_v<T, C>) {
    if (stride == 1 && count == Width) rows = from, step = channel, in_place = true;
  }
  if (!in_place) {
    for (int64_t c = 0; c < Width; ++c) {
      C* line = lines.memory.data() + c * step;
      if (c < count) {
        load_run(from + c * channel, stride, positions, line);
      } else {
        std::fill(line, line + positions, C(0));
      }
    }
  }
  interleave<Width>(rows, step, positions, to);
}

template <int64_t Width, class T>
void store_channels(const Compute<T>* from, int64_t count, int64_t positions, Lines<Compute<T>, Width>& lines, T* to,
                    int64_t channel, int64_t stride) {
  using C = Compute<T>;
  if (channel == 1) {
    for (int64_t i = 0; i < positions; ++i) store_run(from + i * Width, count, to + i * stride, 1);
    return;
  }
  if constexpr (std::is_same_v<T, C>) {
    if (stride == 1 && count == Width) {
      separate<Width>(from, positions, to, channel);
      return;
    }
  }
  const int64_t step = lines.length;
  separate<Width>(from, positions, lines.memory.data(), step);
  for (int64_t c = 0; c < count; ++c) {
    store_run(lines.memory.data() + c * step, positions, to + c * channel, stride);
  }
}

// Whether a block can be used as it lies in memory.
template <int64_t Width, class T>
bool lies_so(const Field<T>& field, const Unit& unit) {
  return std::is_same_v<std::remove_const_t<T>, Compute<std::remove_const_t<T>>> && field.strides[1] == 1 &&
         unit.count == Width;
}

// A block of an image, for reading: in place, or a copy of the window.
template <int64_t Width, class T>
Plane<const Compute<T>> load_plane(const Field<const T>& field, const Unit& unit, const Window& window,
                                   std::vector<Compute<T>>& memory, Lines<Compute<T>, Width>& lines) {
  using C = Compute<T>;
  if constexpr (std::is_same_v<T, C>) {
    if (lies_so<Width>(field, unit)) {
      return {field.at(unit.image, unit.first, 0, 0), field.strides[2], field.strides[3], 0, 0};
    }
  }
  const int64_t row = window.columns() * Width;
  memory.resize(std::max(memory.size(), static_cast<size_t>(window.rows() * row)));
  for (int64_t y = window.row_begin; y < window.row_end; ++y) {
    load_channels<Width>(field.at(unit.image, unit.first, y, window.column_begin), field.strides[1], field.strides[3],
                         unit.count, window.columns(), lines, memory.data() + (y - window.row_begin) * row);
  }
  return {memory.data(), row, Width, window.row_begin, window.column_begin};
}

// A block of a gradient that begins as zeros: in place, or a window that store_gradient copies.
template <int64_t Width, class T>
Plane<Compute<T>> clear_gradient(const Geometry& at, const Field<T>& field, const Unit& unit, const Window& window,
                                 std::vector<Compute<T>>& memory) {
  using C = Compute<T>;
  if constexpr (std::is_same_v<T, C>) {
    if (lies_so<Width>(field, unit)) {
      for (int64_t y = 0; y < at.height; ++y) {
        for (int64_t x = 0; x < at.width; ++x) {
          C* pixel = field.at(unit.image, unit.first, y, x);
          std::fill(pixel, pixel + Width, C(0));
        }
      }
      return {field.at(unit.image, unit.first, 0, 0), field.strides[2], field.strides[3], 0, 0};
    }
  }
  memory.assign(static_cast<size_t>(window.pixels() * Width), C(0));
  return {memory.data(), window.columns() * Width, Width, window.row_begin, window.column_begin};
}

template <int64_t Width, class T>
void store_gradient(const Geometry& at, const Plane<Compute<T>>& plane, const Unit& unit, const Window& window,
                    Lines<Compute<T>, Width>& lines, const Field<T>& field) {
  using C = Compute<T>;
  if (lies_so<Width>(field, unit)) return;
  const std::vector<C> zeros(static_cast<size_t>(std::max(at.width, unit.count)), C(0));
  const auto clear = [&](int64_t y, int64_t begin, int64_t end) {
    if (field.strides[1] == 1) {
      for (int64_t x = begin; x < end; ++x) {
        store_run(zeros.data(), unit.count, field.at(unit.image, unit.first, y, x), 1);
      }
    } else {
      for (int64_t c = 0; c < unit.count; ++c) {
        store_run(zeros.data(), end - begin, field.at(unit.image, unit.first + c, y, begin), field.strides[3]);
      }
    }
  };
  for (int64_t y = 0; y < at.height; ++y) {
    if (y < window.row_begin || y >= window.row_end) {
      clear(y, 0, at.width);
      continue;
    }
    if (window.column_begin > 0) clear(y, 0, window.column_begin);
    store_channels<Width>(plane.at(y, window.column_begin), unit.count, window.columns(), lines,
                          field.at(unit.image, unit.first, y, window.column_begin), field.strides[1], field.strides[3]);
    if (window.column_end < at.width) clear(y, window.column_end, at.width);
  }
}

// Some rows of bins of one box: as many as fit the first-level cache.
template <class C, int64_t Width>
struct Tile {
  int64_t rows, columns;
  std::vector<C> memory;

  explicit Tile(const Geometry& at)
      : rows(std::clamp<int64_t>(200 / at.options.pooled_w, 1, at.options.pooled_h)),
        columns(at.options.pooled_w),
        memory(static_cast<size_t>(rows * columns * Width)) {}

  C* at(int64_t row, int64_t column) { return memory.data() + (row * columns + column) * Width; }

  // body(first row, how many) for all rows of bins.
  template <class Body>
  void for_each(const Geometry& at, const Body& body) {
    for (int64_t p = 0; p < at.options.pooled_h; p += rows) body(p, std::min(rows, at.options.pooled_h - p));
  }

  template <class T>
  void load(const Field<const T>& field, int64_t k, const Unit& unit, int64_t p, int64_t count,
            Lines<C, Width>& lines) {
    const int64_t* s = field.strides;
    const T* from = field.at(k, unit.first, p, 0);
    if (s[2] == columns * s[3]) {
      load_channels<Width>(from, s[1], s[3], unit.count, count * columns, lines, memory.data());
    } else {
      for (int64_t i = 0; i < count; ++i) {
        load_channels<Width>(from + i * s[2], s[1], s[3], unit.count, columns, lines, at(i, 0));
      }
    }
  }

  template <class T>
  void store(const Field<T>& field, int64_t k, const Unit& unit, int64_t p, int64_t count, Lines<C, Width>& lines) {
    // A result is dense: its rows follow each other in either layout.
    store_channels<Width>(memory.data(), unit.count, count * columns, lines, field.at(k, unit.first, p, 0),
                          field.strides[1], field.strides[3]);
  }
};

// body(begin, end) for pieces of all blocks of all images, numbered so that a thread has some blocks of each image:
// boxes may all be of one.
template <int64_t Width, class Body>
void for_each_unit(const Geometry& at, const Body& body) {
  const int64_t blocks = (at.channels + Width - 1) / Width;
  parallel_for(blocks * at.batch, Width * std::max<int64_t>(at.height * at.width, at.bins()),
               [&](int64_t begin, int64_t end) { body(begin, end); });
}

template <int64_t Width>
Unit unit_of(const Geometry& at, int64_t index) {
  const int64_t first = index / at.batch * Width;
  return {index % at.batch, first, std::min(Width, at.channels - first)};
}

// The width that suits these channels, as a constant.
template <class Body>
void dispatch_width(int64_t channels, const Body& body) {
  if (channels <= kFewChannels) {
    body(std::integral_constant<int64_t, kFewChannels>());
  } else {
    body(std::integral_constant<int64_t, kBlockChannels>());
  }
}

// ---- kernels: sums over the pixels of a bin, channels innermost
// ------------------------------------------------------

// body(constant of 1 to 4, first) until `count` pixels are dealt with.
template <class Body>
inline void by_fours(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) body(std::integral_constant<int, 4>(), i);
  switch (count - i) {
    case 3: body(std::integral_constant<int, 3>(), i); break;
    case 2: body(std::integral_constant<int, 2>(), i); break;
    case 1: body(std::integral_constant<int, 1>(), i); break;
    default: break;
  }
}

// to += weights x pixels
template <int64_t Width, int Count, class C>
inline void gather(const C* const (&pixels)[Count], const C (&weights)[Count], C* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t c = 0; c < Width; ++c) {
    C sum = weights[0] * pixels[0][c];
    for (int k = 1; k < Count; ++k) sum += weights[k] * pixels[k][c];
    to[c] += sum;
  }
}

// pixels += weights x from
template <int64_t Width, int Count, class C>
inline void scatter(const C* __restrict from, const C (&weights)[Count], C* const (&pixels)[Count]) {
  HANDGRAD_SIMD
  for (int64_t c = 0; c < Width; ++c) {
    for (int k = 0; k < Count; ++k) pixels[k][c] += weights[k] * from[c];
  }
}

// How the coordinates of one box move, for forward mode and second derivatives.
template <class C>
struct Motion {
  C x1, y1, x2, y2;

  C row(const Tap<C>& tap) const { return y1 * tap.by_first + y2 * tap.by_second; }
  C column(const Tap<C>& tap) const { return x1 * tap.by_first + x2 * tap.by_second; }
};

// Adds the pixels of a bin by their weights; with a motion, by how these change.
template <int64_t Width, bool Moving, class C>
inline void gather_bin(const Plane<const C>& plane, const Taps<C>& rows, const Taps<C>& columns,
                       const Motion<C>& motion, C* to) {
  for (int64_t r = 0; r < rows.count; ++r) {
    const Tap<C>& row = rows.data[r];
    by_fours(columns.count, [&](auto count, int64_t first) {
      const C* pixels[count.value];
      C weights[count.value];
      for (int k = 0; k < count.value; ++k) {
        const Tap<C>& column = columns.data[first + k];
        pixels[k] = plane.at(row.pixel, column.pixel);
        weights[k] =
            Moving ? motion.row(row) * column.weight + row.weight * motion.column(column) : row.weight * column.weight;
      }
      gather<Width>(pixels, weights, to);
    });
  }
}

// Adds to the pixels of a bin what they weigh; with a motion, how what they weigh changes.
template <int64_t Width, bool Moving, class C>
inline void scatter_bin(const C* from, const Taps<C>& rows, const Taps<C>& columns, const Motion<C>& motion,
                        const Plane<C>& plane) {
  for (int64_t r = 0; r < rows.count; ++r) {
    const Tap<C>& row = rows.data[r];
    by_fours(columns.count, [&](auto count, int64_t first) {
      C* pixels[count.value];
      C weights[count.value];
      for (int k = 0; k < count.value; ++k) {
        const Tap<C>& column = columns.data[first + k];
        pixels[k] = plane.at(row.pixel, column.pixel);
        weights[k] =
            Moving ? motion.row(row) * column.weight + row.weight * motion.column(column) : row.weight * column.weight;
      }
      scatter<Width>(from, weights, pixels);
    });
  }
}

// A row of pixels, summed with the columns' weights and with their two derivatives.
template <class C, int64_t Width>
struct RowSums {
  alignas(64) C plain[Width], first[Width], second[Width];

  void clear() {
    for (int64_t c = 0; c < Width; ++c) plain[c] = first[c] = second[c] = C(0);
  }

  void load(const Plane<const C>& plane, int64_t y, const Taps<C>& columns) {
    clear();
    by_fours(columns.count, [&](auto count, int64_t start) {
      constexpr int Count = count.value;
      const Tap<C>* taps = columns.data + start;
      const C* pixels[Count];
      for (int k = 0; k < Count; ++k) pixels[k] = plane.at(y, taps[k].pixel);
      HANDGRAD_SIMD
      for (int64_t c = 0; c < Width; ++c) {
        C sums[3] = {};
        for (int k = 0; k < Count; ++k) {
          const C pixel = pixels[k][c];
          sums[0] += taps[k].weight * pixel;
          sums[1] += taps[k].by_first * pixel;
          sums[2] += taps[k].by_second * pixel;
        }
        plain[c] += sums[0], first[c] += sums[1], second[c] += sums[2];
      }
    });
  }
};

// What a box's four coordinates do, for each channel of a block; over channels it is summed at the end.
template <class C, int64_t Width>
struct CoordinateSums {
  alignas(64) C x1[Width] = {}, y1[Width] = {}, x2[Width] = {}, y2[Width] = {};

  void store(C* to) const {
    for (int64_t k = 0; k < 4; ++k) {
      const C* from = k == 0 ? x1 : k == 1 ? y1 : k == 2 ? x2 : y2;
      C sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < Width; ++c) sum += from[c];
      to[k] = sum;
    }
  }
};

// sums += the derivatives of a bin by the coordinates, times its gradient.
template <int64_t Width, class C>
inline void differentiate_bin(const Plane<const C>& plane, const Taps<C>& rows, const Taps<C>& columns,
                              const C* __restrict grad, CoordinateSums<C, Width>& sums) {
  for (int64_t r = 0; r < rows.count; ++r) {
    const Tap<C>& row = rows.data[r];
    RowSums<C, Width> in;
    in.load(plane, row.pixel, columns);
    HANDGRAD_SIMD
    for (int64_t c = 0; c < Width; ++c) {
      const C along_row = grad[c] * in.plain[c], weighed = grad[c] * row.weight;
      sums.y1[c] += row.by_first * along_row;
      sums.y2[c] += row.by_second * along_row;
      sums.x1[c] += weighed * in.first[c];
      sums.x2[c] += weighed * in.second[c];
    }
  }
}

// The same of the bin's change under a motion of the image (`moving`) and of the box; `change` is that change.
template <int64_t Width, class C>
inline void differentiate_bin_twice(const Plane<const C>& plane, const Plane<const C>& moving, const Taps<C>& rows,
                                    const Taps<C>& columns, const Motion<C>& motion, const C* __restrict grad,
                                    C* __restrict change, CoordinateSums<C, Width>& sums) {
  for (int64_t r = 0; r < rows.count; ++r) {
    const Tap<C>& row = rows.data[r];
    const C row_change = motion.row(row);
    RowSums<C, Width> in, in_moving;
    in.load(plane, row.pixel, columns);
    // An image that does not move has no plane.
    if (moving.data) {
      in_moving.load(moving, row.pixel, columns);
    } else {
      in_moving.clear();
    }
    HANDGRAD_SIMD
    for (int64_t c = 0; c < Width; ++c) {
      const C along_row = in_moving.plain[c] + motion.x1 * in.first[c] + motion.x2 * in.second[c];
      change[c] += row.weight * along_row + row_change * in.plain[c];
      sums.y1[c] += row.by_first * grad[c] * along_row;
      sums.y2[c] += row.by_second * grad[c] * along_row;
      sums.x1[c] += grad[c] * (row.weight * in_moving.first[c] + row_change * in.first[c]);
      sums.x2[c] += grad[c] * (row.weight * in_moving.second[c] + row_change * in.second[c]);
    }
  }
}

// ---- host entries
// ----------------------------------------------------------------------------------------------------

Tensor roi_align_cpu(const Tensor& input, const Tensor& boxes, int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                     int64_t sampling_ratio, bool aligned) {
  const Geometry at = check_arguments(input, boxes, {pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned});
  const Tensor output = empty_output(at, input);
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Boxes<C> on(at, boxes);
    const Field<const T> from = field<T>(input);
    const Field<T> to = mutable_field<T>(output);
    dispatch_width(at.channels, [&](auto width) {
      constexpr int64_t Width = width.value;
      for_each_unit<Width>(at, [&](int64_t begin, int64_t end) {
        Tile<C, Width> tile(at);
        Lines<C, Width> lines(std::max(at.width, tile.rows * tile.columns));
        std::vector<C> memory;
        for (int64_t index = begin; index < end; ++index) {
          const Unit unit = unit_of<Width>(at, index);
          const Window window(on, unit.image);
          const Plane<const C> plane = load_plane<Width, T>(from, unit, window, memory, lines);
          for (int64_t i = on.starts[static_cast<size_t>(unit.image)];
               i < on.starts[static_cast<size_t>(unit.image + 1)]; ++i) {
            const int64_t k = on.order[static_cast<size_t>(i)];
            const BoxTaps<C>& box = on[k];
            const C nothing = box.lost ? std::numeric_limits<C>::quiet_NaN() : C(0);
            tile.for_each(at, [&](int64_t p, int64_t count) {
              std::fill(tile.memory.begin(), tile.memory.end(), nothing);
              for (int64_t y = 0; y < count; ++y) {
                for (int64_t x = 0; x < at.options.pooled_w; ++x) {
                  gather_bin<Width, false>(plane, box.rows(p + y), box.columns(x), Motion<C>{}, tile.at(y, x));
                }
              }
              tile.store(to, k, unit, p, count, lines);
            });
          }
        }
      });
    });
  });
  return output;
}

// Sums over blocks of channels, in their order, to the gradient of boxes. The number of an image has none.
template <class C>
void store_grad_boxes(const Geometry& at, const std::vector<C>& partial, const Tensor& grad_boxes) {
  const BoxTable<C> to = mutable_box_table<C>(grad_boxes);
  const int64_t blocks = static_cast<int64_t>(partial.size()) / std::max<int64_t>(1, 4 * at.boxes);
  for (int64_t k = 0; k < at.boxes; ++k) {
    *to.at(k, 0) = 0;
    for (int64_t d = 0; d < 4; ++d) {
      C sum = 0;
      for (int64_t b = 0; b < blocks; ++b) sum += partial[static_cast<size_t>((b * at.boxes + k) * 4 + d)];
      *to.at(k, d + 1) = sum;
    }
  }
}

template <class C, int64_t Width>
std::vector<C> coordinate_sums(const Geometry& at, bool wanted) {
  const int64_t blocks = wanted ? (at.channels + Width - 1) / Width : 0;
  return std::vector<C>(static_cast<size_t>(blocks * at.boxes * 4));
}

std::tuple<Tensor, Tensor> roi_align_backward_cpu(const Tensor& grad_output, const Tensor& input, const Tensor& boxes,
                                                  int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                                                  int64_t sampling_ratio, bool aligned,
                                                  const std::vector<bool>& output_mask) {
  const Backward call(grad_output, input, boxes, {pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned},
                      output_mask);
  const Geometry& at = call.at;
  const Tensor &grad_input = call.grad_input, &grad_boxes = call.grad_boxes;
  const bool wants_input = call.wants_input, wants_boxes = call.wants_boxes;
  if (!wants_input && !wants_boxes) return {grad_input, grad_boxes};
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Boxes<C> on(at, boxes);
    const Field<const T> from = field<T>(input), grads = field<T>(grad_output);
    Field<T> to{};
    if (wants_input) to = mutable_field<T>(grad_input);
    dispatch_width(at.channels, [&](auto width) {
      constexpr int64_t Width = width.value;
      std::vector<C> partial = coordinate_sums<C, Width>(at, wants_boxes);
      for_each_unit<Width>(at, [&](int64_t begin, int64_t end) {
        Tile<C, Width> tile(at);
        Lines<C, Width> lines(std::max(at.width, tile.rows * tile.columns));
        std::vector<C> memory, grad_memory;
        for (int64_t index = begin; index < end; ++index) {
          const Unit unit = unit_of<Width>(at, index);
          const Window window(on, unit.image);
          Plane<const C> plane;
          if (wants_boxes) plane = load_plane<Width, T>(from, unit, window, memory, lines);
          Plane<C> grad_plane;
          if (wants_input) grad_plane = clear_gradient<Width, T>(at, to, unit, window, grad_memory);
          for (int64_t i = on.starts[static_cast<size_t>(unit.image)];
               i < on.starts[static_cast<size_t>(unit.image + 1)]; ++i) {
            const int64_t k = on.order[static_cast<size_t>(i)];
            const BoxTaps<C>& box = on[k];
            CoordinateSums<C, Width> sums;
            tile.for_each(at, [&](int64_t p, int64_t count) {
              tile.load(grads, k, unit, p, count, lines);
              for (int64_t y = 0; y < count; ++y) {
                for (int64_t x = 0; x < at.options.pooled_w; ++x) {
                  const Taps<C> rows = box.rows(p + y), columns = box.columns(x);
                  if (wants_input) scatter_bin<Width, false>(tile.at(y, x), rows, columns, Motion<C>{}, grad_plane);
                  if (wants_boxes) differentiate_bin<Width>(plane, rows, columns, tile.at(y, x), sums);
                }
              }
            });
            if (wants_boxes) sums.store(partial.data() + (unit.first / Width * at.boxes + k) * 4);
          }
          if (wants_input) store_gradient<Width, T>(at, grad_plane, unit, window, lines, to);
        }
      });
      if (wants_boxes) store_grad_boxes(at, partial, grad_boxes);
    });
  });
  return {grad_input, grad_boxes};
}

std::tuple<Tensor, Tensor, Tensor> roi_align_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_boxes,
    const Tensor& grad_output, const Tensor& input, const Tensor& boxes, int64_t pooled_h, int64_t pooled_w,
    double spatial_scale, int64_t sampling_ratio, bool aligned, const std::vector<bool>& output_mask) {
  const DoubleBackward call(grad_grad_input, grad_grad_boxes, grad_output, input, boxes,
                            {pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned}, output_mask);
  const Geometry& at = call.at;
  const Tensor &grad_grad_output = call.grad_grad_output, &grad_input = call.grad_input, &grad_boxes = call.grad_boxes;
  const bool wants_output = call.wants_grad_output, wants_input = call.wants_input, wants_boxes = call.wants_boxes;
  if (!wants_output && !wants_input && !wants_boxes) return {grad_grad_output, grad_input, grad_boxes};
  const bool image_moves = grad_grad_input.has_value(), boxes_move = grad_grad_boxes.has_value();
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Boxes<C> on(at, boxes);
    const BoxTable<const C> motions = box_table<C>(boxes_move ? *grad_grad_boxes : boxes);
    const Field<const T> from = field<T>(input), from_moving = field<T>(image_moves ? *grad_grad_input : input);
    const Field<const T> grads = field<T>(grad_output);
    Field<T> to{}, changes{};
    if (wants_input) to = mutable_field<T>(grad_input);
    if (wants_output) changes = mutable_field<T>(grad_grad_output);
    dispatch_width(at.channels, [&](auto width) {
      constexpr int64_t Width = width.value;
      std::vector<C> partial = coordinate_sums<C, Width>(at, wants_boxes);
      for_each_unit<Width>(at, [&](int64_t begin, int64_t end) {
        Tile<C, Width> tile(at), change(at);
        Lines<C, Width> lines(std::max(at.width, tile.rows * tile.columns));
        std::vector<C> memory, moving_memory, grad_memory;
        for (int64_t index = begin; index < end; ++index) {
          const Unit unit = unit_of<Width>(at, index);
          const Window window(on, unit.image);
          Plane<const C> plane, moving;
          Plane<C> grad_plane;
          if (boxes_move || wants_boxes) plane = load_plane<Width, T>(from, unit, window, memory, lines);
          if (image_moves) moving = load_plane<Width, T>(from_moving, unit, window, moving_memory, lines);
          if (wants_input) grad_plane = clear_gradient<Width, T>(at, to, unit, window, grad_memory);
          for (int64_t i = on.starts[static_cast<size_t>(unit.image)];
               i < on.starts[static_cast<size_t>(unit.image + 1)]; ++i) {
            const int64_t k = on.order[static_cast<size_t>(i)];
            const BoxTaps<C>& box = on[k];
            Motion<C> motion{};
            if (boxes_move) motion = {*motions.at(k, 1), *motions.at(k, 2), *motions.at(k, 3), *motions.at(k, 4)};
            const C nothing = box.lost ? std::numeric_limits<C>::quiet_NaN() : C(0);
            CoordinateSums<C, Width> sums;
            tile.for_each(at, [&](int64_t p, int64_t count) {
              if (wants_input || wants_boxes) tile.load(grads, k, unit, p, count, lines);
              std::fill(change.memory.begin(), change.memory.end(), nothing);
              for (int64_t y = 0; y < count; ++y) {
                for (int64_t x = 0; x < at.options.pooled_w; ++x) {
                  const Taps<C> rows = box.rows(p + y), columns = box.columns(x);
                  if (wants_input) scatter_bin<Width, true>(tile.at(y, x), rows, columns, motion, grad_plane);
                  if (wants_boxes) {
                    // Of this the change is a part.
                    differentiate_bin_twice<Width>(plane, moving, rows, columns, motion, tile.at(y, x), change.at(y, x),
                                                   sums);
                  } else if (wants_output) {
                    if (boxes_move) gather_bin<Width, true>(plane, rows, columns, motion, change.at(y, x));
                    if (image_moves) gather_bin<Width, false>(moving, rows, columns, motion, change.at(y, x));
                  }
                }
              }
              if (wants_output) change.store(changes, k, unit, p, count, lines);
            });
            if (wants_boxes) sums.store(partial.data() + (unit.first / Width * at.boxes + k) * 4);
          }
          if (wants_input) store_gradient<Width, T>(at, grad_plane, unit, window, lines, to);
        }
      });
      if (wants_boxes) store_grad_boxes(at, partial, grad_boxes);
    });
  });
  return {grad_grad_output, grad_input, grad_boxes};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::roi_align_cpu>(library, "roi_align");
  handgrad::implement<handgrad::roi_align_backward_cpu>(library, "_roi_align_backward");
  handgrad::implement<handgrad::roi_align_double_backward_cpu>(library, "_roi_align_double_backward");
}
