// The loops of a resized crop on the CPU, over runs of memory that the compiler vectorises.
//
// Rows of an image are taken in strips of 16. A strip is turned on its side, so that the 16 rows are neighbours in
// memory: then the horizontal pass does the same arithmetic for 16 neighbours, whatever the taps are. What it gives is
// turned back into rows, for the vertical pass, whose neighbours are those of a row.
//
// In order of appearance: AxisTaps, the taps of one axis; Rounding; strips turned and turned back; sums of columns, the
// horizontal pass; sums of rows, the vertical pass.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "abi/macros.h"
#include "cpu/planes.h"
#include "cpu/scratch.h"

namespace handgrad::resized_crop {

// Rows of a strip.
inline constexpr int64_t kStripRows = 16;
// Taps of which there is a loop without a loop inside; more are added so many at a time.
inline constexpr int kFewTaps = 8;

// Which inputs every output is made of along one axis, with their weights.
template <class C>
struct AxisTaps {
  int64_t outputs = 0, most = 0;
  std::vector<int32_t> first, count;
  ScratchVector<C> weights;  // [outputs, most]
  // Later outputs are made of earlier inputs.
  bool descending = false;
  // Of the integer weights of uint8 images: the bits behind the point, and whether a sum can leave 0 to 255.
  int32_t precision = 0;
  bool clamps = false;

  AxisTaps() = default;
  AxisTaps(int64_t outputs, int64_t most)
      : outputs(outputs),
        most(most),
        first(static_cast<size_t>(outputs)),
        count(static_cast<size_t>(outputs)),
        weights(static_cast<size_t>(outputs * most)) {}

  const C* weights_of(int64_t output) const { return weights.data() + output * most; }
};

// What a sum begins with, and the element of E that it becomes: rounded and cut to 0 to 255, if that is uint8.
//
// Integer weights in float are kept as 2^-precision of them, and one half is added. Every sum is then a whole multiple
// of 2^-precision below 2^24 of those, so that nothing is rounded but the result, towards 0.
template <class E, class C>
struct Rounding {
  C start = 0;
  int32_t shift = 0;
  bool clamps = false;

  explicit Rounding(const AxisTaps<C>& taps) : clamps(taps.clamps) {
    if constexpr (std::is_same_v<C, int32_t>) {
      shift = taps.precision;
      start = 1 << (shift - 1);
    } else if constexpr (std::is_same_v<E, uint8_t>) {
      start = C(0.5);
    }
  }

  // A whole number, for uint8.
  template <bool Clamps>
  HANDGRAD_MATH auto level(C sum) const {
    if constexpr (!std::is_same_v<E, uint8_t>) {
      return sum;
    } else {
      int32_t level;
      if constexpr (std::is_same_v<C, int32_t>) {
        level = sum >> shift;
      } else {
        level = static_cast<int32_t>(sum);
      }
      if constexpr (Clamps) level = std::min(std::max(level, 0), 255);
      return level;
    }
  }
};

// ---- runs -----------------------------------------------------------------------------------------------------------

// Sums to levels, in place or to uint8.
template <bool Clamps, class E, class C, class To>
[[gnu::noinline]] void level_run(const Rounding<E, C>& rounding, const C* from, int64_t count, To* to) {
  const Rounding<E, C> local = rounding;
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(local.template level<Clamps>(from[i]));
}

// ---- strips turned and turned back ----------------------------------------------------------------------------------

// Bytes of the vectors that do it: the widest of all have a shuffle that takes elements from anywhere in two of them;
// that of others is dearer than it is wide.
inline constexpr int kTurnBytes = __BIGGEST_ALIGNMENT__ >= 64 ? 64 : 16;

// Four levels at a time, which may lie anywhere: as many bytes are turned in a quarter of the steps.
struct [[gnu::packed, gnu::may_alias]] FourLevels {
  uint32_t bits;
};
static_assert(std::endian::native == std::endian::little, "the first of four levels is in the low bits");

HANDGRAD_MATH uint32_t element_of(FourLevels levels) { return levels.bits; }
HANDGRAD_MATH float element_of(float element) { return element; }
HANDGRAD_MATH double element_of(double element) { return element; }

// to[16 i + r] = rows[r][i]
template <class From, class E>
[[gnu::noinline]] void turn(const From* const* rows, int64_t count, E* __restrict to) {
  const From *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3], *r4 = rows[4], *r5 = rows[5], *r6 = rows[6],
             *r7 = rows[7], *r8 = rows[8], *r9 = rows[9], *r10 = rows[10], *r11 = rows[11], *r12 = rows[12],
             *r13 = rows[13], *r14 = rows[14], *r15 = rows[15];
#pragma omp simd simdlen(kTurnBytes / sizeof(E))
  for (int64_t i = 0; i < count; ++i) {
    E* column = to + kStripRows * i;
    column[0] = element_of(r0[i]), column[1] = element_of(r1[i]), column[2] = element_of(r2[i]);
    column[3] = element_of(r3[i]), column[4] = element_of(r4[i]), column[5] = element_of(r5[i]);
    column[6] = element_of(r6[i]), column[7] = element_of(r7[i]), column[8] = element_of(r8[i]);
    column[9] = element_of(r9[i]), column[10] = element_of(r10[i]), column[11] = element_of(r11[i]);
    column[12] = element_of(r12[i]), column[13] = element_of(r13[i]), column[14] = element_of(r14[i]);
    column[15] = element_of(r15[i]);
  }
}

// A strip of `count` levels a row, four columns in each element; what is missing of the last four is 0.
inline void turn_levels(const uint8_t* const* rows, int64_t count, uint32_t* to) {
  const int64_t whole = count / 4, rest = count % 4;
  const FourLevels* fours[kStripRows];
  for (int64_t r = 0; r < kStripRows; ++r) fours[r] = reinterpret_cast<const FourLevels*>(rows[r]);
  turn(fours, whole, to);
  for (int64_t r = 0; rest > 0 && r < kStripRows; ++r) {
    uint32_t bits = 0;
    std::memcpy(&bits, rows[r] + 4 * whole, static_cast<size_t>(rest));
    to[kStripRows * whole + r] = bits;
  }
}

// Each of `groups` elements of 16 rows to four columns of them.
template <class C>
[[gnu::noinline]] void widen_levels(const uint32_t* __restrict from, int64_t groups, C* __restrict to) {
  for (int64_t g = 0; g < groups; ++g, from += kStripRows, to += 4 * kStripRows) {
    HANDGRAD_SIMD
    for (int64_t r = 0; r < kStripRows; ++r) {
      const uint32_t bits = from[r];
      to[r] = static_cast<C>(static_cast<int32_t>(bits & 255));
      to[kStripRows + r] = static_cast<C>(static_cast<int32_t>(bits >> 8 & 255));
      to[2 * kStripRows + r] = static_cast<C>(static_cast<int32_t>(bits >> 16 & 255));
      to[3 * kStripRows + r] = static_cast<C>(static_cast<int32_t>(bits >> 24));
    }
  }
}

// rows[r * pitch + i] = from[16 i + r]
template <class E>
[[gnu::noinline]] void turn_back(const E* __restrict from, int64_t count, E* __restrict rows, int64_t pitch) {
#pragma omp simd simdlen(kTurnBytes / sizeof(E))
  for (int64_t i = 0; i < count; ++i) {
    const E* column = from + kStripRows * i;
    rows[i] = column[0], rows[pitch + i] = column[1], rows[2 * pitch + i] = column[2];
    rows[3 * pitch + i] = column[3], rows[4 * pitch + i] = column[4], rows[5 * pitch + i] = column[5];
    rows[6 * pitch + i] = column[6], rows[7 * pitch + i] = column[7], rows[8 * pitch + i] = column[8];
    rows[9 * pitch + i] = column[9], rows[10 * pitch + i] = column[10], rows[11 * pitch + i] = column[11];
    rows[12 * pitch + i] = column[12], rows[13 * pitch + i] = column[13], rows[14 * pitch + i] = column[14];
    rows[15 * pitch + i] = column[15];
  }
}

// ---- sums of columns ------------------------------------------------------------------------------------------------

// Where the columns of a turned strip lie, and where their sums go: elements from a pixel to the next, from an output
// to the next, and from a channel to the next.
struct Columns {
  int64_t pixel, output, channel;
};

// The sums of outputs [begin, end): N of their taps, from tap `skipped` on, added to `start`, or to what is there. Of G
// channels side by side; `strip` is where pixel 0 would be.
template <class C, int N, int G, bool Adds>
[[gnu::noinline]] void sum_columns(const AxisTaps<C>& taps, int64_t skipped, int64_t begin, int64_t end, C start,
                                   const C* __restrict strip, const Columns& columns, C* __restrict to) {
  const Columns local = columns;
  const int32_t* firsts = taps.first.data();
  const int64_t most = taps.most;
  const C* weights = taps.weights_of(begin) + skipped;
  strip += skipped * local.pixel;
  for (int64_t o = begin; o < end; ++o, weights += most, to += local.output) {
    const C* __restrict from = strip + firsts[o] * local.pixel;
    C kept[N > 0 ? N : 1];
    for (int k = 0; k < N; ++k) kept[k] = weights[k];
    for (int c = 0; c < G; ++c) {
      HANDGRAD_SIMD
      for (int64_t r = 0; r < kStripRows; ++r) {
        C sum = Adds ? to[c * local.channel + r] : start;
        for (int k = 0; k < N; ++k) sum += kept[k] * from[k * local.pixel + c * kStripRows + r];
        to[c * local.channel + r] = sum;
      }
    }
  }
}

// The loops of 0 to kFewTaps taps.
template <class C, int G, bool Adds, int... N>
constexpr auto column_sums(std::integer_sequence<int, N...>) {
  return std::array{sum_columns<C, N, G, Adds>...};
}

// Outputs [begin, end), of three channels side by side or of one.
template <class C, int G>
void sum_columns(const AxisTaps<C>& taps, int64_t begin, int64_t end, C start, const C* strip, const Columns& columns,
                 C* to) {
  static constexpr auto kFirst = column_sums<C, G, false>(std::make_integer_sequence<int, kFewTaps + 1>());
  static constexpr auto kFurther = column_sums<C, G, true>(std::make_integer_sequence<int, kFewTaps + 1>());
  // Those with as many taps at a time.
  while (begin < end) {
    const int64_t count = taps.count[static_cast<size_t>(begin)];
    int64_t next = begin + 1;
    while (next < end && taps.count[static_cast<size_t>(next)] == count) ++next;
    int64_t done = std::min<int64_t>(count, kFewTaps);
    kFirst[static_cast<size_t>(done)](taps, 0, begin, next, start, strip, columns, to);
    for (int64_t some; done < count; done += some) {
      some = std::min<int64_t>(count - done, kFewTaps);
      kFurther[static_cast<size_t>(some)](taps, done, begin, next, start, strip, columns, to);
    }
    to += (next - begin) * columns.output;
    begin = next;
  }
}

// ---- sums of rows ---------------------------------------------------------------------------------------------------

// to[i] = N taps of element i of rows, added to `start`, or to what is there.
template <class C, int N, bool Adds>
[[gnu::noinline]] void sum_rows(const C* const* rows, const C* weights, C start, int64_t length, C* __restrict to) {
  const C* kept_rows[N > 0 ? N : 1];
  C kept[N > 0 ? N : 1];
  for (int k = 0; k < N; ++k) kept_rows[k] = rows[k], kept[k] = weights[k];
  HANDGRAD_SIMD
  for (int64_t i = 0; i < length; ++i) {
    C sum = Adds ? to[i] : start;
    for (int k = 0; k < N; ++k) sum += kept[k] * kept_rows[k][i];
    to[i] = sum;
  }
}

template <class C, bool Adds, int... N>
constexpr auto row_sums(std::integer_sequence<int, N...>) {
  return std::array{sum_rows<C, N, Adds>...};
}

template <class C>
void sum_rows(const C* const* rows, const C* weights, int64_t count, C start, int64_t length, C* to) {
  static constexpr auto kFirst = row_sums<C, false>(std::make_integer_sequence<int, kFewTaps + 1>());
  static constexpr auto kFurther = row_sums<C, true>(std::make_integer_sequence<int, kFewTaps + 1>());
  int64_t done = std::min<int64_t>(count, kFewTaps);
  kFirst[static_cast<size_t>(done)](rows, weights, start, length, to);
  for (int64_t some; done < count; done += some) {
    some = std::min<int64_t>(count - done, kFewTaps);
    kFurther[static_cast<size_t>(some)](rows + done, weights + done, start, length, to);
  }
}

}  // namespace handgrad::resized_crop
