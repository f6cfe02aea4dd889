// Resampling of one image by a table of taps for each axis, in one pass over it, on the CPU.
//
// In order of appearance: Pixels, where rows are read and written; rows of results written; Resampler.
#pragma once

#include "cpu/normalisation.h"
#include "cpu/parallel.h"
#include "math/convert.h"
#include "resized_crop_strips.h"

namespace handgrad::resized_crop {

// Memory of an image from a crop's first pixel on: pointer, type, and strides in elements.
template <class Byte>
struct Pixels {
  Byte* data;
  ScalarType dtype;
  int64_t channel, row, column;

  int64_t element() const { return dtype == ScalarType::Byte ? 1 : element_size(dtype); }
  Byte* at(int64_t c, int64_t y, int64_t x) const { return data + (c * channel + y * row + x * column) * element(); }
};
using Source = Pixels<const unsigned char>;
using Target = Pixels<unsigned char>;

// Row o of `channels` channels. make(c, to) makes that of each: in place where it is neighbours in memory of type V,
// else in `scratch`.
template <class V, class Make>
void store_planes(const Target& target, int64_t o, int64_t channels, int64_t width, ScratchVector<V>& scratch,
                  const Make& make) {
  const bool is_stored_so = target.dtype == (sizeof(V) == 1 ? ScalarType::Byte : kDtype<V>);
  if (is_stored_so && target.column == 1) {
    for (int64_t c = 0; c < channels; ++c) make(c, reinterpret_cast<V*>(target.at(c, o, 0)));
    return;
  }
  const size_t length = static_cast<size_t>(channels * width);
  if (scratch.size() < length) scratch.resize(length);
  for (int64_t c = 0; c < channels; ++c) make(c, scratch.data() + c * width);
  if (is_stored_so && channels == 3 && target.column == 3 && target.channel == 1) {
    interleave_three(scratch.data(), width, width, reinterpret_cast<V*>(target.at(0, o, 0)));
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    const V* from = scratch.data() + c * width;
    if constexpr (sizeof(V) == 1) {
      V* to = target.at(c, o, 0);
      for (int64_t x = 0; x < width; ++x) to[x * target.column] = from[x];
    } else {
      store_run<V>(target.dtype, from, width, target.at(c, o, 0), 0, target.column);
    }
  }
}

// E is the type of strips and rows: uint8_t, float or double; C the one that sums are made in, see taps_of; F the one
// that results are normalised in.
template <class E, class C, class F>
class Resampler {
 public:
  Resampler(int64_t channels, const AxisTaps<C>& columns, const AxisTaps<C>& rows,
            const Normalisation<F>& normalisation)
      : channels_(channels), columns_(columns), rows_(rows), normalisation_(normalisation) {
    length_ = channels * columns.outputs;
    // Rows begin with a cache line, and whole vectors of them are summed.
    pitch_ = (length_ + 63) / 64 * 64;
    input_end_ = 0;
    for (size_t o = 0; o < columns.first.size(); ++o) {
      input_end_ = std::max<int64_t>(input_end_, columns.first[o] + columns.count[o]);
    }
    // So many outputs at a time that what they are made of stays in the nearest cache.
    const int64_t outputs = columns.outputs;
    const int64_t block = std::max<int64_t>(1, std::min<int64_t>(32, 256 * outputs / std::max<int64_t>(1, input_end_)));
    for (int64_t begin = 0; begin < outputs; begin += block) blocks_.push_back(block_of(begin, block));
    input_begin_ = input_end_;
    for (const Block& own : blocks_) input_begin_ = std::min(input_begin_, own.low);
    ring_rows_ = ((rows.most + kStripRows - 2) / kStripRows + 1) * kStripRows;
    ring_.resize(static_cast<size_t>(ring_rows_ * pitch_));
    sums_.resize(static_cast<size_t>(pitch_));
    turned_.resize(static_cast<size_t>(kStripRows * pitch_));
  }

  // Rows [begin, end) of the output.
  void run(const Source& source, const Target& target, int64_t begin, int64_t end) {
    list_rows(begin, end);
    int64_t strips = 0;
    std::vector<const C*> taken(static_cast<size_t>(rows_.most));
    for (int64_t i = 0; i < end - begin; ++i) {
      const int64_t o = rows_.descending ? end - 1 - i : begin + i;
      const int64_t count = rows_.count[static_cast<size_t>(o)];
      int64_t place = 0;
      if (count > 0) {
        place = places_[static_cast<size_t>(rows_.first[static_cast<size_t>(o)] - lowest_)];
        for (; strips * kStripRows < place + count; ++strips) fill_strip(source, strips);
      }
      int64_t slot = place % ring_rows_;
      for (int64_t k = 0; k < count; ++k) {
        taken[static_cast<size_t>(k)] = ring_.data() + slot * pitch_;
        if (++slot == ring_rows_) slot = 0;
      }
      sum_rows(taken.data(), rows_.weights_of(o), count, Rounding<E, C>(rows_).start, pitch_, sums_.data());
      store_row(target, o);
    }
  }

 private:
  int64_t channels_, length_, pitch_, input_begin_, input_end_, ring_rows_;
  const AxisTaps<C>&columns_, &rows_;
  const Normalisation<F>& normalisation_;
  // Outputs [begin, end) of a row, and the pixels [low, high) that they are made of.
  struct Block {
    int64_t begin, end, low, high;
  };
  std::vector<Block> blocks_;
  // The rows that are read, in order; where each stands in that list; and the first of them.
  std::vector<int64_t> listed_, places_;
  int64_t lowest_ = 0;
  ScratchVector<E> lines_;
  ScratchVector<std::conditional_t<std::is_same_v<E, uint8_t>, uint32_t, E>> strip_;
  ScratchVector<C> ring_, sums_, wide_, turned_;
  ScratchVector<F> values_;

  Block block_of(int64_t begin, int64_t most) const {
    Block block{begin, std::min(columns_.outputs, begin + most), input_end_, 0};
    for (int64_t o = begin; o < block.end; ++o) {
      const int64_t first = columns_.first[static_cast<size_t>(o)], count = columns_.count[static_cast<size_t>(o)];
      if (count == 0) continue;
      block.low = std::min(block.low, first);
      block.high = std::max(block.high, first + count);
    }
    block.low = std::min(block.low, block.high);
    return block;
  }

  // A row between two that are read may be needed by none.
  void list_rows(int64_t begin, int64_t end) {
    int64_t low = INT32_MAX, high = 0;
    for (int64_t o = begin; o < end; ++o) {
      const size_t i = static_cast<size_t>(o);
      if (rows_.count[i] == 0) continue;
      low = std::min<int64_t>(low, rows_.first[i]);
      high = std::max<int64_t>(high, rows_.first[i] + rows_.count[i]);
    }
    lowest_ = std::min(low, high);
    places_.assign(static_cast<size_t>(high - lowest_), -1);
    for (int64_t o = begin; o < end; ++o) {
      const size_t i = static_cast<size_t>(o);
      for (int64_t k = 0; k < rows_.count[i]; ++k) places_[static_cast<size_t>(rows_.first[i] + k - lowest_)] = 0;
    }
    listed_.clear();
    for (size_t y = 0; y < places_.size(); ++y) {
      if (places_[y] < 0) continue;
      places_[y] = static_cast<int64_t>(listed_.size());
      listed_.push_back(lowest_ + static_cast<int64_t>(y));
    }
  }

  // ---- a strip of rows, from memory into the ring ----

  void fill_strip(const Source& source, int64_t strip) {
    const int64_t width = input_end_ - input_begin_;
    const bool is_stored_as_summed = source.dtype == (sizeof(E) == 1 ? ScalarType::Byte : kDtype<E>);
    // Pixels side by side, and those that Pillow keeps in four bytes.
    const int64_t side = source.column;
    const bool is_packed =
        is_stored_as_summed && source.channel == 1 && (side == channels_ || (side == 4 && channels_ == 3));
    const E* rows[kStripRows];
    if (is_packed) {
      for (int64_t r = 0; r < kStripRows; ++r) rows[r] = line_in_place(source, 0, row_of(strip, r));
      turn_rows(rows, (width - 1) * side + channels_);
      sum_strip(side, 0, channels_);
    } else {
      for (int64_t c = 0; c < channels_; ++c) {
        load_lines(source, c, strip, is_stored_as_summed, rows);
        turn_rows(rows, width);
        sum_strip(1, c, 1);
      }
    }
    turn_back(turned_.data(), length_, ring_.data() + strip * kStripRows % ring_rows_ * pitch_, pitch_);
  }

  void turn_rows(const E* const* rows, int64_t count) {
    if constexpr (std::is_same_v<E, uint8_t>) {
      strip_.resize(static_cast<size_t>((count + 3) / 4 * kStripRows));
      turn_levels(rows, count, strip_.data());
    } else {
      strip_.resize(static_cast<size_t>(count * kStripRows));
      turn(rows, count, strip_.data());
    }
  }

  // The last strip may have fewer rows: then its last one stands in.
  int64_t row_of(int64_t strip, int64_t r) const {
    const int64_t last = static_cast<int64_t>(listed_.size()) - 1;
    return listed_[static_cast<size_t>(std::min(strip * kStripRows + r, last))];
  }

  const E* line_in_place(const Source& source, int64_t c, int64_t y) const {
    return reinterpret_cast<const E*>(source.at(c, y, input_begin_));
  }

  // A channel of 16 rows, in place where its elements are neighbours of the right type.
  void load_lines(const Source& source, int64_t c, int64_t strip, bool in_place, const E** rows) {
    const int64_t width = input_end_ - input_begin_;
    in_place = in_place && source.column == 1;
    if (!in_place) lines_.resize(std::max(lines_.size(), static_cast<size_t>(kStripRows * width)));
    for (int64_t r = 0; r < kStripRows; ++r) {
      const int64_t y = row_of(strip, r);
      if (in_place) {
        rows[r] = line_in_place(source, c, y);
        continue;
      }
      E* line = lines_.data() + r * width;
      if constexpr (std::is_same_v<E, uint8_t>) {
        const E* from = line_in_place(source, c, y);
        for (int64_t x = 0; x < width; ++x) line[x] = from[x * source.column];
      } else {
        load_run<E>(source.dtype, source.at(c, y, input_begin_), 0, source.column, width, line);
      }
      rows[r] = line;
    }
  }

  // The horizontal pass over a strip of `side` channels side by side, of which `count` from `channel` on are summed.
  void sum_strip(int64_t side, int64_t channel, int64_t count) {
    const Rounding<E, C> rounding(columns_);
    const int64_t pixel = side * kStripRows;
    const Columns columns{pixel, kStripRows, columns_.outputs * kStripRows};
    for (const Block& block : blocks_) {
      const C* strip = widened(block, pixel);
      C* to = turned_.data() + (channel * columns_.outputs + block.begin) * kStripRows;
      if (count == 3) {
        sum_columns<C, 3>(columns_, block.begin, block.end, rounding.start, strip, columns, to);
      } else {
        for (int64_t c = 0; c < count; ++c) {
          sum_columns<C, 1>(columns_, block.begin, block.end, rounding.start, strip + c * kStripRows, columns,
                            to + c * columns.channel);
        }
      }
      const int64_t size = (block.end - block.begin) * kStripRows;
      for (int64_t c = 0; c < count; ++c) round_columns(rounding, to + c * columns.channel, size);
    }
  }

  static void round_columns(const Rounding<E, C>& rounding, C* sums, int64_t count) {
    if constexpr (std::is_same_v<E, uint8_t>) {
      if (rounding.clamps) {
        level_run<true>(rounding, sums, count, sums);
      } else {
        level_run<false>(rounding, sums, count, sums);
      }
    }
  }

  // What a block is made of, in C; the pointer is to where pixel 0 of the crop would be.
  const C* widened(const Block& block, int64_t pixel) {
    if constexpr (std::is_same_v<E, C>) {
      return strip_.data() - input_begin_ * pixel;
    } else {
      const int64_t side = pixel / kStripRows;
      const int64_t first = (block.low - input_begin_) * side / 4, end = ((block.high - input_begin_) * side + 3) / 4;
      wide_.resize(static_cast<size_t>((end - first) * 4 * kStripRows));
      widen_levels(strip_.data() + first * kStripRows, end - first, wide_.data());
      return wide_.data() - first * 4 * kStripRows - input_begin_ * pixel;
    }
  }

  // ---- a row of sums, into memory ----

  void store_row(const Target& target, int64_t o) {
    if constexpr (std::is_same_v<E, uint8_t>) {
      if (target.dtype == ScalarType::Byte) {
        const Rounding<E, C> rounding(rows_);
        store_planes<E>(target, o, channels_, columns_.outputs, lines_, [&](int64_t c, E* levels) {
          level_run<true>(rounding, sums_.data() + c * columns_.outputs, columns_.outputs, levels);
        });
        return;
      }
    }
    store_planes<F>(target, o, channels_, columns_.outputs, values_,
                    [&](int64_t c, F* values) { normalise(c, values); });
  }

  void normalise(int64_t c, F* values) {
    const int64_t width = columns_.outputs;
    narrow_values(Rounding<E, C>(rows_), sums_.data() + c * width, width, normalisation_.factor(), values);
    normalisation_.apply(values, width, c);
  }

  [[gnu::noinline]] static void narrow_values(const Rounding<E, C>& rounding, const C* __restrict sums, int64_t count,
                                              F factor, F* __restrict values) {
    const Rounding<E, C> local = rounding;
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<F>(local.template level<true>(sums[i])) * factor;
  }
};

}  // namespace handgrad::resized_crop
