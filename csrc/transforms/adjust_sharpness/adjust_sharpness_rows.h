// Rows on the CPU, three of which make one: the sums of a column are made once and added beside each other.
//
// In order of appearance: how images are cut into rows; loops; the rows around one; bands of rows for a thread, of
// levels and of numbers.
#pragma once

#include <algorithm>
#include <array>

#include "adjust_sharpness_host.h"
#include "cpu/image_rows.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "math/convert.h"

namespace handgrad::adjust_sharpness {

// ---- rows -----------------------------------------------------------------------------------------------------------

// The most channels that a row holds side by side, and elements of a row whose sums stay in the nearest cache.
inline constexpr int64_t kMostGroup = 8, kRun = 2048;

struct Cut {
  int64_t group, groups;  // channels that are innermost, and how many of these planes an image has
  int64_t length, rows;   // elements of a row, and rows of all planes

  Cut(const Geometry& geometry, std::initializer_list<const Tensor*> tensors) {
    bool grouped = geometry.channels > 1 && geometry.channels <= kMostGroup;
    for (const Tensor* tensor : tensors) grouped = grouped && has_groups(tensor);
    group = grouped ? geometry.channels : 1;
    groups = geometry.channels / group;
    length = geometry.width * group;
    rows = geometry.batch * groups * geometry.height;
  }
};

// body(n, c, first, last, index) for pieces of all planes, rows [first, last) of which are one thread's; c: the first
// channel; index: of the plane's first row among all.
template <class MakeBody>
void for_each_band(const Geometry& geometry, const Cut& cut, const MakeBody& make_body) {
  parallel_for(cut.rows, cut.length, [&](int64_t begin, int64_t end) {
    auto body = make_body();
    while (begin < end) {
      const int64_t plane = begin / geometry.height, first = begin - plane * geometry.height;
      const int64_t last = std::min(geometry.height, first + end - begin);
      body(plane / cut.groups, plane % cut.groups, first, last, plane * geometry.height);
      begin += last - first;
    }
  });
}

// ---- loops ----------------------------------------------------------------------------------------------------------

template <class E, class S>
[[gnu::noinline]] void add_rows(const E* __restrict up, const E* __restrict middle, const E* __restrict down,
                                int64_t count, S* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    to[i] = static_cast<S>(static_cast<S>(up[i] + down[i]) + static_cast<S>(middle[i]));
  }
}

[[gnu::noinline]] inline void blur(const uint16_t* __restrict sums, int64_t step, const uint8_t* __restrict x,
                                   int64_t count, uint8_t* __restrict to) {
  const uint16_t *left = sums - step, *right = sums + step;
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i)
    to[i] = blurred_level(static_cast<uint16_t>(left[i] + sums[i] + right[i] + 4 * x[i]));
}

// By way of `numbers`: each loop has elements of two sizes, of which compilers make twice as fast ones as of three.
[[gnu::noinline]] inline void blend(const uint8_t* __restrict blurred, const uint8_t* __restrict x, float rest,
                                    int64_t count, int32_t* __restrict numbers, uint8_t* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) numbers[i] = sharpened_level(x[i], blurred[i], rest);
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(numbers[i]);
}

inline void sharpen(const uint16_t* sums, int64_t step, const uint8_t* x, float rest, int64_t count, uint8_t* to) {
  alignas(64) uint8_t blurred[kRun];
  alignas(64) int32_t numbers[kRun];
  blur(sums, step, x, count, blurred);
  blend(blurred, x, rest, count, numbers, to);
}

template <class C>
[[gnu::noinline]] void subtract_mean(const C* __restrict sums, int64_t step, const C* __restrict x, int64_t count,
                                     C* __restrict to) {
  const C *left = sums - step, *right = sums + step;
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = mean_less(x[i], left[i], sums[i], right[i]);
}

template <class C>
[[gnu::noinline]] void blend(const C* __restrict x, const C* __restrict less, C rest, int64_t count, C* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = unit_of(x[i] + rest * less[i]);
}

// body(from, count, sums) for runs of [begin, end), with the sums of their columns; those beside must be there.
template <class S, class E, class Body>
void for_each_run(const std::array<const E*, 3>& rows, int64_t step, int64_t begin, int64_t end, const Body& body) {
  alignas(64) S sums[kRun + 2 * kMostGroup];
  for (int64_t from = begin; from < end; from += kRun) {
    const int64_t count = std::min(kRun, end - from), at = from - step;
    add_rows(rows[0] + at, rows[1] + at, rows[2] + at, count + 2 * step, sums);
    body(from, count, sums + step);
  }
}

// The means around the numbers of [begin, end), less these.
template <class C>
[[gnu::noinline]] void subtract_means(const std::array<const C*, 3>& rows, int64_t step, int64_t begin, int64_t end,
                                      C* to) {
  for_each_run<C>(rows, step, begin, end, [&](int64_t from, int64_t count, const C* sums) {
    subtract_mean(sums, step, rows[1] + from, count, to + from);
  });
}

// ---- the rows around one --------------------------------------------------------------------------------------------

// Rows of a plane as they are computed with, one after the other: in place where they are so in memory.
template <class E>
class NearRows {
 public:
  NearRows(const SourceRows& rows, const Cut& cut)
      : rows_(rows),
        stride_(rows ? rows.stride(cut.group) : 0),
        length_(cut.length),
        in_place_(rows && stride_ == 1 && (std::is_same_v<E, uint8_t> || rows.dtype == kDtype<E>)),
        kept_(rows && !in_place_ ? static_cast<size_t>(kRows * cut.length) : 0) {}

  void move_to(int64_t n, int64_t c) {
    n_ = n, c_ = c;
    held_.fill(-1);
  }
  [[gnu::noinline]] const E* row(int64_t y) {
    const int64_t at = rows_.at(n_, c_, y, 0);
    if (in_place_) return reinterpret_cast<const E*>(rows_.data) + at;
    E* const to = kept_.data() + y % kRows * length_;
    int64_t& held = held_[static_cast<size_t>(y % kRows)];
    if (held != y) load(at, to);
    held = y;
    return to;
  }
  std::array<const E*, 3> around(int64_t y) { return {row(y - 1), row(y), row(y + 1)}; }

 private:
  static constexpr int64_t kRows = 3;

  [[gnu::noinline]] void load(int64_t at, E* to) const {
    if constexpr (std::is_same_v<E, uint8_t>) {
      for (int64_t i = 0; i < length_; ++i) to[i] = rows_.data[at + i * stride_];
    } else {
      load_run(rows_.dtype, rows_.data, at, stride_, length_, to);
    }
  }

  SourceRows rows_;
  int64_t stride_, length_;
  bool in_place_;
  ScratchVector<E> kept_;
  std::array<int64_t, kRows> held_{};
  int64_t n_ = 0, c_ = 0;
};

// Where a row of a result is made: in place, or in scratch that is then stored.
template <class E>
class ResultRows {
 public:
  ResultRows(const TargetRows& rows, const Cut& cut)
      : rows_(rows),
        stride_(rows ? rows.stride(cut.group) : 0),
        length_(cut.length),
        in_place_(rows && stride_ == 1 && (std::is_same_v<E, uint8_t> || rows.dtype == kDtype<E>)),
        kept_(rows && !in_place_ ? static_cast<size_t>(cut.length) : 0) {}

  explicit operator bool() const { return static_cast<bool>(rows_); }

  // make(to) writes a row.
  template <class Make>
  void make(int64_t n, int64_t c, int64_t y, const Make& make) {
    const int64_t at = rows_.at(n, c, y, 0);
    if (in_place_) return make(reinterpret_cast<E*>(rows_.data) + at);
    make(kept_.data());
    store(at);
  }

 private:
  [[gnu::noinline]] void store(int64_t at) {
    if constexpr (std::is_same_v<E, uint8_t>) {
      for (int64_t i = 0; i < length_; ++i) rows_.data[at + i * stride_] = kept_[static_cast<size_t>(i)];
    } else {
      store_run(rows_.dtype, kept_.data(), length_, rows_.data, at, stride_);
    }
  }

  TargetRows rows_;
  int64_t stride_, length_;
  bool in_place_;
  ScratchVector<E> kept_;
};

// ---- values ---------------------------------------------------------------------------------------------------------

inline void sharpen_levels(const Geometry& geometry, const FactorTable& table, const Tensor& image,
                           const Tensor& output) {
  const Cut cut(geometry, {&image, &output});
  for_each_band(geometry, cut, [&] {
    return [&, source = NearRows<uint8_t>(source_rows(&image), cut),
            target = ResultRows<uint8_t>(target_rows(&output), cut)](int64_t n, int64_t c, int64_t first, int64_t last,
                                                                     int64_t) mutable {
      const float rest = static_cast<float>(table.rest(n));
      source.move_to(n, c);
      for (int64_t y = first; y < last; ++y) {
        target.make(n, c, y, [&](uint8_t* to) {
          const uint8_t* const x = source.row(y);
          const int64_t inner = geometry.is_border_row(y) ? cut.length : cut.group, end = cut.length - cut.group;
          std::copy(x, x + inner, to);
          if (inner == cut.length) return;
          std::copy(x + end, x + cut.length, to + end);
          for_each_run<uint16_t>(source.around(y), cut.group, inner, end,
                                 [&](int64_t from, int64_t count, const uint16_t* sums) {
                                   sharpen(sums, cut.group, x + from, rest, count, to + from);
                                 });
        });
      }
    };
  });
}

// body(from, count, rest) for the parts of a row: rest is 0 at the border, where a factor that is none is not seen.
template <class C, class Body>
void for_each_part(const Geometry& geometry, const Cut& cut, int64_t y, C rest, const Body& body) {
  if (geometry.is_border_row(y)) return body(int64_t{0}, cut.length, C(0));
  body(int64_t{0}, cut.group, C(0));
  body(cut.group, cut.length - 2 * cut.group, rest);
  body(cut.length - cut.group, cut.group, C(0));
}

// The means around a row's numbers less these; 0 at the border.
template <class C>
[[gnu::noinline]] void subtract_means(const Geometry& geometry, const Cut& cut, NearRows<C>& source, int64_t y, C* to) {
  if (geometry.is_border_row(y)) {
    std::fill_n(to, cut.length, C(0));
    return;
  }
  std::fill_n(to, cut.group, C(0));
  std::fill_n(to + cut.length - cut.group, cut.group, C(0));
  subtract_means(source.around(y), cut.group, cut.group, cut.length - cut.group, to);
}

template <class C>
void sharpen_numbers(const Geometry& geometry, const FactorTable& table, const Tensor& image, const Tensor& output) {
  const Cut cut(geometry, {&image, &output});
  for_each_band(geometry, cut, [&] {
    return [&, source = NearRows<C>(source_rows(&image), cut), target = ResultRows<C>(target_rows(&output), cut),
            less = ScratchVector<C>(static_cast<size_t>(cut.length))](int64_t n, int64_t c, int64_t first, int64_t last,
                                                                      int64_t) mutable {
      const C rest = static_cast<C>(table.rest(n));
      source.move_to(n, c);
      for (int64_t y = first; y < last; ++y) {
        target.make(n, c, y, [&](C* to) {
          const C* const x = source.row(y);
          if (geometry.is_small()) {
            std::copy(x, x + cut.length, to);
            return;
          }
          subtract_means(geometry, cut, source, y, less.data());
          for_each_part(geometry, cut, y, rest, [&](int64_t from, int64_t count, C part_rest) {
            blend(x + from, less.data() + from, part_rest, count, to + from);
          });
        });
      }
    };
  });
}

}  // namespace handgrad::adjust_sharpness
