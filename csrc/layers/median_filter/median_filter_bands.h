// The filter on the CPU: planes are cut into strips of columns and these into bands of rows, one a thread. A band keeps
// as many rows as windows reach, with what is behind the border, and goes down its strip row by row, many windows at a
// time. Nothing of the image's size is allocated.
//
// In order of appearance: the windows of a row: medians, selected pixels, gradients; Band.
#pragma once

#include <cmath>

#include "cpu/border_strips.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "median_filter_host.h"

namespace handgrad::median_filter {

// Windows side by side whose counts are in registers.
inline constexpr int64_t kLanes = 32;

// ---- the windows of a row -------------------------------------------------------------------------------------------

// rows[j][i + k] is the pixel of window i at row j and column k of it.
template <class C>
using WindowRows = const C* const*;

// numbers[j] = tap j of window i, from At on.
template <int Side, int At, class C>
HANDGRAD_MATH void gather_taps(const C* const (&rows)[Side], int64_t i, C (&numbers)[Side * Side]) {
  if constexpr (At < Side * Side) {
    numbers[At] = rows[At / Side][i + At % Side];
    gather_taps<Side, At + 1>(rows, i, numbers);
  }
}
template <int Side, class C>
[[gnu::noinline]] void medians_by_network(WindowRows<C> from, int64_t count, C* medians) {
  const C* rows[Side];
  for (int j = 0; j < Side; ++j) rows[j] = from[j];
  const C* const(&fixed)[Side] = rows;
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    C numbers[Side * Side];
    gather_taps<Side, 0>(fixed, i, numbers);
    medians[i] = middle_of<Side * Side>(numbers);
  }
}

// Of windows of 3 x 3, by columns that are sorted once for the three windows which have them: 18 minima and maxima for
// a window, where the network has 36. `columns` has room for three rows, `pitch` apart.
template <class C>
[[gnu::noinline]] void sort_columns(WindowRows<C> rows, int64_t count, C* low, C* middle, C* high) {
  const C *a = rows[0], *b = rows[1], *c = rows[2];
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    C numbers[3] = {a[i], b[i], c[i]};
    sort_column(numbers);
    low[i] = numbers[0], middle[i] = numbers[1], high[i] = numbers[2];
  }
}
template <class C>
[[gnu::noinline]] void join_columns(const C* low, const C* middle, const C* high, int64_t count, C* medians) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    C numbers[9] = {low[i],        low[i + 1], low[i + 2],  middle[i],  middle[i + 1],
                    middle[i + 2], high[i],    high[i + 1], high[i + 2]};
    medians[i] = middle_of_columns(numbers);
  }
}
template <class C>
void medians_by_columns(WindowRows<C> rows, int64_t count, C* columns, int64_t pitch, C* medians) {
  C *const middle = columns + pitch, *const high = middle + pitch;
  sort_columns<C>(rows, count + 2, columns, middle, high);
  join_columns<C>(columns, middle, high, count, medians);
}

// How many taps of each of kLanes windows are below `bound`.
template <class K>
HANDGRAD_MATH void count_below(const K* const* keys, int64_t rows, int64_t columns, int64_t first, const K* bound,
                               K* counts) {
  K total[kLanes] = {};
  for (int64_t j = 0; j < rows; ++j) {
    for (int64_t k = 0; k < columns; ++k) {
      const K* const row = keys[j] + first + k;
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kLanes; ++lane) total[lane] += row[lane] < bound[lane] ? 1 : 0;
    }
  }
  for (int64_t lane = 0; lane < kLanes; ++lane) counts[lane] = total[lane];
}
// The largest key that at most half of the taps are below of, bit by bit from the highest.
template <class C>
[[gnu::noinline]] void medians_by_bits(const Key<C>* const* keys, int64_t rows, int64_t columns, int64_t count,
                                       C* medians) {
  using K = Key<C>;
  const K half = static_cast<K>(rows * columns / 2);
  for (int64_t first = 0; first < count; first += kLanes) {
    K found[kLanes], bound[kLanes], counts[kLanes];
    std::fill_n(found, kLanes, std::numeric_limits<K>::min());
    for (int32_t bit = 8 * static_cast<int32_t>(sizeof(K)) - 1; bit >= 0; --bit) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kLanes; ++lane) bound[lane] = with_bit(found[lane], bit);
      count_below(keys, rows, columns, first, bound, counts);
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kLanes; ++lane) found[lane] = counts[lane] <= half ? bound[lane] : found[lane];
    }
    const int64_t some = std::min(kLanes, count - first);
    for (int64_t lane = 0; lane < some; ++lane) medians[first + lane] = number_of<C>(found[lane]);
  }
}

// As many bits as a number has, so that vectors of both have as many lanes.
template <class C>
[[gnu::noinline]] bool has_nan(const C* row, int64_t count) {
  Key<C> any = 0;
#pragma omp simd reduction(| : any)
  for (int64_t i = 0; i < count; ++i) any |= row[i] != row[i] ? 1 : 0;
  return any != 0;
}
// The first tap that is NaN, for those windows that have one.
template <class C>
[[gnu::noinline]] void spoil(const C* row, int64_t count, C* medians) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) medians[i] = row[i] != row[i] ? row[i] : medians[i];
}
// What is at the selected pixel, if that is this tap.
template <class C>
[[gnu::noinline]] void select_equal(const C* row, const C* medians, const C* source, int64_t count, C* selected) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const bool is_it = (row[i] == medians[i]) | (row[i] != row[i]);
    selected[i] = is_it ? source[i] : selected[i];
  }
}
template <class C>
[[gnu::noinline]] void number_equal(const C* row, const C* medians, C tap, int64_t count, C* selected) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const bool is_it = (row[i] == medians[i]) | (row[i] != row[i]);
    selected[i] = is_it ? tap : selected[i];
  }
}
// From the windows whose selected tap is `tap` to the pixels that are there.
template <class C>
[[gnu::noinline]] void add_selected(const C* selected, const C* grads, C tap, int64_t count, C* sums) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) sums[i] += selected[i] == tap ? grads[i] : C(0);
}

// ---- a band ---------------------------------------------------------------------------------------------------------

template <class C>
class Band {
 public:
  Band(const Geometry& geometry, const BorderStrips& strips, Pass pass, const Tensor& input, const Tensor& source,
       const Tensor& output)
      : geometry_(geometry),
        strips_(strips),
        pass_(pass),
        down_(geometry.radius[0]),
        right_(geometry.radius[1]),
        pad_((pass == kGradient ? 2 : 1) * right_),
        slots_((pass == kGradient ? 3 : 2) * down_ + 1),
        // Windows are taken kLanes at a time, beyond the end too.
        pitch_((strips.widest() + 2 * pad_ + kLanes + 15) / 16 * 16 + 16),
        by_network_(down_ == right_ && (down_ == 1 || down_ == 2)),
        columns_(by_network_ && down_ == 1 ? static_cast<size_t>(3 * pitch_) : 0),
        input_(source_rows(&input)),
        source_(source_rows(&source)),
        output_(target_rows(&output)),
        pixels_(numbers(1)),
        keys_(by_network_ ? 0 : numbers(1)),
        sources_(pass == kValues ? 0 : numbers(1)),
        selected_(pass == kGradient ? numbers(1) : 0),
        has_nan_(static_cast<size_t>(slots_)),
        medians_(static_cast<size_t>(pitch_)),
        result_(static_cast<size_t>(pitch_)) {}

  // Rows [first, last) of an item, a strip of a plane.
  void run(int64_t item, int64_t first, int64_t last) {
    const int64_t plane = item / strips_.strips, strip = item % strips_.strips;
    n_ = plane / geometry_.channels, c_ = plane % geometry_.channels;
    begin_ = strips_.begin(strip), end_ = strips_.begin(strip + 1);
    loaded_ = first - (pass_ == kGradient ? 2 : 1) * down_;
    int64_t numbered = first - down_;
    for (int64_t y = first; y < last; ++y) {
      if (pass_ == kGradient) {
        for (; numbered <= y + down_; ++numbered) number(numbered);
        gather(y);
      } else {
        load_until(y + down_);
        find_medians(y, begin_, end_, pass_ == kValues ? result_.data() : medians_.data());
        if (pass_ == kSelected) select(y);
      }
      store_run(output_.dtype, result_.data() + at(begin_), end_ - begin_, output_.data, output_.at(n_, c_, y, begin_),
                output_.column);
    }
  }

 private:
  size_t numbers(int64_t rings) const { return static_cast<size_t>(rings * slots_ * pitch_); }
  // Column x of the image in a row of scratch; row y in a ring.
  int64_t at(int64_t x) const { return x - begin_ + pad_; }
  int64_t slot(int64_t y) const { return ((y % slots_) + slots_) % slots_; }
  template <class V>
  auto* ring(V& rows, int64_t y) const {
    return rows.data() + slot(y) * pitch_;
  }
  int64_t tap(int64_t down, int64_t right) const { return (down + down_) * (2 * right_ + 1) + right + right_; }

  void load_until(int64_t y) {
    for (; loaded_ <= y; ++loaded_) {
      C* const row = ring(pixels_, loaded_);
      strips_.load(input_, n_, c_, loaded_, begin_, end_, pad_, row);
      const int64_t count = end_ - begin_ + 2 * pad_;
      has_nan_[static_cast<size_t>(slot(loaded_))] = has_nan(row, count);
      if (pass_ == kSelected) strips_.load(source_, n_, c_, loaded_, begin_, end_, pad_, ring(sources_, loaded_));
      if (by_network_) continue;
      Key<C>* const keys = ring(keys_, loaded_);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) keys[i] = key_of(row[i]);
    }
  }

  // Medians of the windows around pixels [from, to) of row y.
  void find_medians(int64_t y, int64_t from, int64_t to, C* medians) {
    const int64_t rows = 2 * down_ + 1, columns = 2 * right_ + 1, i = at(from), count = to - from;
    if (by_network_) {
      const C* window[5];
      for (int64_t j = 0; j < rows; ++j) window[j] = ring(pixels_, y - down_ + j) + i - right_;
      if (rows == 3) {
        medians_by_columns<C>(window, count, columns_.data(), pitch_, medians + i);
      } else {
        medians_by_network<5, C>(window, count, medians + i);
      }
    } else {
      window_.clear();
      for (int64_t j = 0; j < rows; ++j) window_.push_back(ring(keys_, y - down_ + j) + i - right_);
      medians_by_bits<C>(window_.data(), rows, columns, count, medians + i);
    }
    for (int64_t down = -down_; down <= down_; ++down) {
      if (!has_nan_[static_cast<size_t>(slot(y + down))]) continue;
      for (int64_t right = -right_; right <= right_; ++right) {
        spoil(ring(pixels_, y + down) + i + right, count, medians + i);
      }
    }
  }

  // From the last tap to the first, so that the first of those that are equal stays. A window that is NaN has a tap
  // that is.
  void select(int64_t y) {
    const int64_t i = at(begin_), count = end_ - begin_;
    for (int64_t down = down_; down >= -down_; --down) {
      for (int64_t right = right_; right >= -right_; --right) {
        select_equal(ring(pixels_, y + down) + i + right, medians_.data() + i, ring(sources_, y + down) + i + right,
                     count, result_.data() + i);
      }
    }
  }

  // Which tap each window of row y selects, and what gradient it has; -1 where there is no window.
  void number(int64_t y) {
    load_until(y + down_);
    C* const selected = ring(selected_, y);
    std::fill_n(selected, pitch_, C(-1));
    const bool circular = geometry_.border == kCircular;
    if (!circular && (y < 0 || y >= geometry_.size[0])) return;
    strips_.load(source_, n_, c_, y, begin_, end_, pad_, ring(sources_, y));
    const int64_t from = circular ? begin_ - right_ : std::max<int64_t>(0, begin_ - right_);
    const int64_t to = circular ? end_ + right_ : std::min(geometry_.size[1], end_ + right_);
    find_medians(y, from, to, medians_.data());
    const int64_t i = at(from);
    for (int64_t down = down_; down >= -down_; --down) {
      for (int64_t right = right_; right >= -right_; --right) {
        number_equal(ring(pixels_, y + down) + i + right, medians_.data() + i, static_cast<C>(tap(down, right)),
                     to - from, selected + i);
      }
    }
  }

  void gather(int64_t y) {
    std::fill_n(result_.data(), pitch_, C(0));
    gather_from(y);
    strips_.for_sights(y, down_, [&](int64_t seen) { gather_from(seen); });
    strips_.fold(begin_, end_, [&](int64_t x, int64_t seen) {
      result_[static_cast<size_t>(at(seen))] += result_[static_cast<size_t>(at(x))];
    });
  }
  // What the pixels of a row get, where it is seen.
  void gather_from(int64_t seen) {
    const bool circular = geometry_.border == kCircular, folded = folds(geometry_.border);
    const int64_t from = folded && begin_ == 0 ? -right_ : begin_;
    const int64_t to = folded && end_ == geometry_.size[1] ? end_ + right_ : end_, i = at(from);
    for (int64_t down = -down_; down <= down_; ++down) {
      const int64_t y = seen + down;
      if (!circular && (y < 0 || y >= geometry_.size[0])) continue;
      for (int64_t right = -right_; right <= right_; ++right) {
        add_selected(ring(selected_, y) + i + right, ring(sources_, y) + i + right, static_cast<C>(tap(-down, -right)),
                     to - from, result_.data() + i);
      }
    }
  }

  const Geometry& geometry_;
  const BorderStrips& strips_;
  Pass pass_;
  int64_t down_, right_, pad_, slots_, pitch_;
  bool by_network_;
  ScratchVector<C> columns_;
  SourceRows input_, source_;
  TargetRows output_;
  ScratchVector<C> pixels_;
  ScratchVector<Key<C>> keys_;
  ScratchVector<C> sources_, selected_;
  std::vector<bool> has_nan_;
  ScratchVector<C> medians_, result_;
  std::vector<const Key<C>*> window_;
  int64_t n_ = 0, c_ = 0, begin_ = 0, end_ = 0, loaded_ = 0;
};

}  // namespace handgrad::median_filter
