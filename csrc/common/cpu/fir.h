// Images filtered along both axes of math/fir.h, on the CPU.
//
// Planes are cut into strips of columns and these into bands of rows, one a thread. Taps that meet inserted zeros are
// never touched: outputs of one phase, those that see the same taps, are a sum of shifted copies of the input, whose
// samples are dealt out so that copies are dense. A separable filter filters each row once along itself into a ring of
// as many rows as a column's window reaches, which the nearer caches hold, and makes each row of the result of the
// ring; another filter has the dealt rows themselves in the ring. Nothing of the image's size is allocated.
//
// In order of appearance: sums of weighted rows; a filter's taps; how planes are cut; FirPhases, what columns of a
// strip are made of; FirBand; run_fir; the gradient with respect to the taps.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/image_rows.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "math/convert.h"
#include "math/fir_filter.h"

namespace handgrad {

// ---- sums of weighted rows -----------------------------------------------------------------------------------------

template <class C>
struct WeightedRow {
  const C* from;
  C weight;
};

// to[i] = the sum over Count rows of weight * from[first + i]; Further rows are added to what is there.
template <bool Further, int Count, class C>
[[gnu::noinline]] void sum_few_rows(const WeightedRow<C>* rows, int64_t first, int64_t length, C* __restrict to) {
  const C* from[Count];
  C weight[Count];
  for (int k = 0; k < Count; ++k) from[k] = rows[k].from + first, weight[k] = rows[k].weight;
  HANDGRAD_SIMD
  for (int64_t i = 0; i < length; ++i) {
    C total = Further ? to[i] + weight[0] * from[0][i] : weight[0] * from[0][i];
#pragma GCC unroll 8
    for (int k = 1; k < Count; ++k) total += weight[k] * from[k][i];
    to[i] = total;
  }
}

template <bool Further, class C>
int64_t sum_some_rows(const WeightedRow<C>* rows, int64_t count, int64_t first, int64_t length, C* to) {
  if (count >= 6) return sum_few_rows<Further, 6>(rows, first, length, to), 6;
  if (count >= 4) return sum_few_rows<Further, 4>(rows, first, length, to), 4;
  if (count == 3) return sum_few_rows<Further, 3>(rows, first, length, to), 3;
  if (count == 2) return sum_few_rows<Further, 2>(rows, first, length, to), 2;
  return sum_few_rows<Further, 1>(rows, first, length, to), 1;
}

// to[i] = the sum over all rows, in their order.
template <class C>
void sum_rows(const std::vector<WeightedRow<C>>& list, int64_t length, C* to) {
  // What the nearest cache holds while all rows are added.
  constexpr int64_t kRun = 8192 / sizeof(C);
  const int64_t count = static_cast<int64_t>(list.size());
  const WeightedRow<C>* const rows = list.data();
  if (count == 0) std::fill_n(to, length, C(0));
  for (int64_t first = 0; count > 0 && first < length; first += kRun) {
    const int64_t some = count <= 6 ? length : std::min(kRun, length - first);
    int64_t done = sum_some_rows<false>(rows, count, first, some, to + first);
    while (done < count) done += sum_some_rows<true>(rows + done, count - done, first, some, to + first);
    if (some == length) return;
  }
}

// ---- the filter, the planes ----------------------------------------------------------------------------------------

// The taps of h for both axes: of rows[ty] and columns[tx], or both[ty * columns + tx] of a filter that is no product.
template <class C>
struct FirTaps {
  std::vector<C> rows, columns, both;

  bool is_separable() const { return both.empty(); }
};

template <class C>
FirTaps<C> fir_taps(const FirPlanes& planes, const FirFilter<C>& filter) {
  const auto fill = [](const FirAxis& axis, std::vector<C>& to, const auto& tap) {
    for (int32_t t = 0; t < axis.taps; ++t) to.push_back(tap(axis.filter_index(t)));
  };
  FirTaps<C> taps;
  if (filter.is_separable()) {
    fill(planes.rows, taps.rows, [&](int32_t i) { return filter.of_row(i); });
    fill(planes.columns, taps.columns, [&](int32_t j) { return filter.of_column(j); });
  } else {
    for (int32_t t = 0; t < planes.rows.taps; ++t) {
      const int32_t i = planes.rows.filter_index(t);
      fill(planes.columns, taps.both, [&](int32_t j) { return filter.of_both(i, j); });
    }
  }
  return taps;
}

struct FirCut {
  int64_t group, groups;  // channels that are innermost, and how many of these planes an image has
  int64_t width, strips;  // output columns of a strip
  int64_t items;          // strips of all planes

  FirCut(const FirPlanes& planes, bool grouped, int64_t element_size) {
    group = grouped ? planes.channels : 1;
    groups = grouped ? 1 : planes.channels;
    // Half of the second cache for the ring, and strips wide beside what their windows reach.
    constexpr int64_t kRingBytes = 256 * 1024;
    const FirAxis& columns = planes.columns;
    const int64_t rows = (planes.rows.taps - 1) / planes.rows.up + 1;
    const int64_t reach = (columns.taps + columns.down - 1) / columns.down;
    const int64_t wide = kRingBytes / std::max<int64_t>(1, rows * group * element_size);
    const int64_t most = std::max({int64_t{1}, wide, std::min<int64_t>(8 * reach, 4096)});
    strips = (columns.out + most - 1) / most;
    width = (columns.out + strips - 1) / std::max<int64_t>(1, strips);
    strips = width ? (columns.out + width - 1) / width : 0;
    items = planes.batch * groups * strips;
  }
};

// ---- columns of a strip --------------------------------------------------------------------------------------------

// Output columns [begin, end). Of period P, columns see the same taps; of input columns S then lie between them, and
// input column low + m S + s is pixel m of lane s.
class FirPhases {
 public:
  struct Tap {
    int64_t lane, shift;
    int32_t t;
  };
  struct Extra {
    int64_t column, lane, shift;
    int32_t t;
  };
  int64_t begin, end, low, high;
  int64_t period, lanes, lane_width;
  std::vector<std::vector<Tap>> phases;
  // What a transposed border gives back, column by column.
  std::vector<Extra> extras;

  FirPhases(const FirAxis& axis, int64_t begin, int64_t end) : begin(begin), end(end) {
    const int32_t divisor = std::gcd(axis.up, axis.down);
    period = axis.up / divisor, lanes = axis.down / divisor;
    int32_t from = 0, to = 0;
    axis.range(static_cast<int32_t>(begin), static_cast<int32_t>(end), from, to);
    low = from, high = std::max<int64_t>(to, from + 1);
    int64_t most = (high - low + lanes - 1) / lanes;
    for (int64_t p = 0; p < std::min(period, end - begin); ++p) {
      const int32_t o = static_cast<int32_t>(begin + p);
      std::vector<Tap> taps;
      int32_t i = axis.first(o);
      for (int32_t t = axis.tap(o, i); t < axis.taps; t += axis.up, ++i) {
        taps.push_back({(i - low) % lanes, (i - low) / lanes, t});
        most = std::max(most, taps.back().shift + count(p));
      }
      phases.push_back(std::move(taps));
    }
    for (int64_t o = begin; o < end; ++o) {
      const int32_t column = static_cast<int32_t>(o), images = axis.images(column);
      for (int32_t k = 1; k < images; ++k) {
        const int32_t image = axis.image(column, k);
        int32_t i = axis.first(image);
        for (int32_t t = axis.tap(image, i); t < axis.taps; t += axis.up, ++i) {
          if (axis.shown(i) >= 0) extras.push_back({o - begin, (i - low) % lanes, (i - low) / lanes, t});
        }
      }
      // Only the ends of the axis have any.
      if (images == 1 && o > axis.before && o < axis.out - 1 - axis.after) {
        o = std::min<int64_t>(end, axis.out - 1 - axis.after) - 1;
      }
    }
    lane_width = most;
  }

  // Columns of a phase.
  int64_t count(int64_t phase) const { return (end - begin - phase + period - 1) / period; }
};

// ---- bands ---------------------------------------------------------------------------------------------------------

// Numbers of a cache line: rows of scratch begin with one, and not all in the same sets.
template <class C>
inline constexpr int64_t kFirSpare = 64 / static_cast<int64_t>(sizeof(C));
template <class C>
int64_t fir_pitch(int64_t length) {
  return (length + kFirSpare<C> - 1) / kFirSpare<C> * kFirSpare<C> + kFirSpare<C>;
}

// Rows of an image dealt out to lanes, the last few of them, as many as a window may reach.
template <class C>
class FirRing {
 public:
  FirRing(int64_t capacity, int64_t length)
      : pitch_(fir_pitch<C>(length)), memory_(static_cast<size_t>(capacity * pitch_)), tags_(capacity, -1) {}

  void forget() { std::fill(tags_.begin(), tags_.end(), -1); }
  // Row i, which make(memory) fills if it is not there.
  template <class Make>
  const C* row(int64_t i, const Make& make) {
    // Of 32 bits, which is enough for rows, a division takes half as long.
    const uint32_t slot = static_cast<uint32_t>(i) % static_cast<uint32_t>(tags_.size());
    C* const to = memory_.data() + int64_t{slot} * pitch_;
    if (tags_[slot] != i) make(to), tags_[slot] = i;
    return to;
  }

 private:
  int64_t pitch_;
  ScratchVector<C> memory_;
  std::vector<int64_t> tags_;
};

// The most rows that one output row depends on, counted from its first to its last.
inline int64_t fir_window(const FirAxis& axis) {
  int64_t most = (axis.taps - 1) / axis.up + 1;
  const auto look_at = [&](int32_t o) {
    int32_t low = axis.in, high = -1;
    for_each_tap(axis, o, [&](int32_t i, int32_t) { low = std::min(low, i), high = std::max(high, i); });
    most = std::max<int64_t>(most, high - low + 1);
  };
  if (axis.border == FirBorder::kZeros) return most;
  const int32_t edge = axis.is_transposed ? std::max(axis.before, axis.after) + 1 : axis.taps / axis.down + 1;
  for (int32_t o = 0; o < std::min(edge, axis.out); ++o) look_at(o), look_at(axis.out - 1 - o);
  return most;
}

// Input columns of a strip, from memory to lanes. Those beyond the ends that are zeros are never written: they are what
// scratch memory begins with.
template <class C>
class FirColumns {
 public:
  FirColumns(const FirAxis& axis, const FirPhases& phases, int64_t group)
      : low_(phases.low), lanes_(phases.lanes), group_(group), pitch_(fir_pitch<C>(phases.lane_width * group)) {
    const int64_t end = low_ + lanes_ * phases.lane_width;
    first_ = std::clamp<int64_t>(0, low_, end);
    last_ = std::clamp<int64_t>(axis.in, first_, end);
    for (int64_t i = low_; i < end; ++i) {
      if (i >= first_ && i < last_) continue;
      const int32_t seen = axis.shown(static_cast<int32_t>(i));
      if (seen >= 0) shown_.push_back({offset(i), seen});
    }
    for (int64_t k = 0; k < 2; ++k) begin_[k] = offset(first_ + k);
  }

  int64_t length() const { return lanes_ * pitch_; }
  const C* at(const C* row, int64_t lane, int64_t shift) const { return row + lane * pitch_ + shift * group_; }

  void load(const SourceRows& rows, int64_t n, int64_t c, int64_t y, C* to) {
    const int64_t stride = rows.stride(group_), at = rows.at(n, c, y, 0), from = at + first_ * rows.column;
    for (const Shown& beyond : shown_) {
      load_run(rows.dtype, rows.data, at + beyond.seen * rows.column, int64_t{1}, group_, to + beyond.offset);
    }
    if (lanes_ == 1) {
      load_run(rows.dtype, rows.data, from, stride, (last_ - first_) * group_, to + begin_[0]);
    } else if (group_ > 1) {
      for (int64_t i = first_; i < last_; ++i) {
        load_run(rows.dtype, rows.data, at + i * rows.column, int64_t{1}, group_, to + offset(i));
      }
    } else {
      loaded_.resize(static_cast<size_t>(last_ - first_));
      load_run(rows.dtype, rows.data, from, stride, last_ - first_, loaded_.data());
      if (lanes_ == 2) {
        deal_two(loaded_.data(), last_ - first_, to + begin_[0], to + begin_[1]);
      } else {
        for (int64_t i = first_; i < last_; ++i) to[offset(i)] = loaded_[static_cast<size_t>(i - first_)];
      }
    }
  }

 private:
  [[gnu::noinline]] static void deal_two(const C* __restrict from, int64_t count, C* __restrict one,
                                         C* __restrict other) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count / 2; ++i) {
      one[i] = from[2 * i];
      other[i] = from[2 * i + 1];
    }
    if (count % 2) one[count / 2] = from[count - 1];
  }

  // Of input column i.
  int64_t offset(int64_t i) const { return (i - low_) % lanes_ * pitch_ + (i - low_) / lanes_ * group_; }

  // A column beyond the ends, and the one that stands there.
  struct Shown {
    int64_t offset, seen;
  };
  int64_t low_, lanes_, group_, pitch_;
  int64_t first_, last_;  // columns of the image
  int64_t begin_[2];      // where the first two of them go
  std::vector<Shown> shown_;
  ScratchVector<C> loaded_;
};

// Phases to a row of output columns.
template <class C>
[[gnu::noinline]] void join_two(const C* __restrict one, const C* __restrict other, int64_t count, C* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count / 2; ++i) {
    to[2 * i] = one[i];
    to[2 * i + 1] = other[i];
  }
  if (count % 2) to[count - 1] = one[count / 2];
}

// Rows that are where a band looks for them.
struct FirInPlace {
  void operator()(int64_t, int64_t, int64_t) const {}
};

// The rows of one strip, on one thread. prepare(n, c, i) is called before row i of the source is read, once each and in
// their order: it may make it.
template <class C, class Prepare = FirInPlace>
class FirBand {
 public:
  FirBand(const FirPlanes& planes, const FirTaps<C>& taps, const FirPhases& phases, const FirCut& cut,
          const SourceRows& source, const TargetRows& target, const SourceRows& plus, const Prepare& prepare = {})
      : planes_(planes),
        taps_(taps),
        phases_(phases),
        group_(cut.group),
        columns_(planes.columns, phases, cut.group),
        source_(source),
        target_(target),
        plus_(plus),
        prepare_(prepare),
        width_((phases.end - phases.begin) * cut.group),
        ring_(fir_window(planes.rows), taps.is_separable() ? width_ : columns_.length()),
        dealt_(static_cast<size_t>(taps.is_separable() ? columns_.length() : 0)),
        phase_pitch_(fir_pitch<C>(phases.count(0) * cut.group)),
        apart_(static_cast<size_t>(phases.period > 1 ? phases.period * phase_pitch_ : 0)),
        result_(static_cast<size_t>(width_)),
        added_(static_cast<size_t>(plus ? width_ : 0)) {
    if (!taps.is_separable()) return;
    for (const std::vector<FirPhases::Tap>& phase : phases.phases) {
      std::vector<WeightedRow<C>>& terms = along_.emplace_back();
      for (const FirPhases::Tap& tap : phase) {
        const C* const from = columns_.at(dealt_.data(), tap.lane, tap.shift);
        terms.push_back({from, taps.columns[static_cast<size_t>(tap.t)]});
      }
    }
  }
  FirBand(const FirBand&) = delete;

  // Rows [first, last) of channel c of image n.
  void run(int64_t n, int64_t c, int64_t first, int64_t last) {
    start(n, c);
    for (int64_t y = first; y < last; ++y) make(y);
  }

  // The same row by row, from the first on; a row is there, before it is rounded, until the next one is made.
  void start(int64_t n, int64_t c) {
    ring_.forget();
    n_ = n, c_ = c;
  }
  const C* make(int64_t y) {
    const int64_t at = target_.at(n_, c_, y, phases_.begin), stride = target_.stride(group_);
    // Straight to memory where it holds what is computed in.
    const bool direct = target_.dtype == kDtype<C> && stride == 1 && !plus_;
    C* const to = direct ? reinterpret_cast<C*>(target_.data) + at : result_.data();
    const int32_t row = static_cast<int32_t>(y);
    taps_.is_separable() ? make_separable(row, to) : make_whole(row, to);
    if (plus_) {
      load_run(plus_.dtype, plus_.data, plus_.at(n_, c_, y, phases_.begin), plus_.stride(group_), width_,
               added_.data());
      HANDGRAD_SIMD
      for (int64_t i = 0; i < width_; ++i) result_[i] += added_[i];
    }
    if (!direct) store_run(target_.dtype, result_.data(), width_, target_.data, at, stride);
    return to;
  }

 private:
  void make_separable(int32_t y, C* to) {
    rows_.clear();
    for_each_tap(planes_.rows, y, [&](int32_t i, int32_t t) {
      rows_.push_back({ring_.row(i, [&](C* row) { filter_row(i, row); }), taps_.rows[static_cast<size_t>(t)]});
    });
    sum_rows(rows_, width_, to);
  }

  void load(int32_t i, C* to) {
    prepare_(n_, c_, i);
    columns_.load(source_, n_, c_, i, to);
  }

  void filter_row(int32_t i, C* to) {
    load(i, dealt_.data());
    make_columns(to, [&](size_t phase) -> const auto& { return along_[phase]; });
    for (const FirPhases::Extra& extra : phases_.extras) {
      const C* const from = columns_.at(dealt_.data(), extra.lane, extra.shift);
      const C weight = taps_.columns[static_cast<size_t>(extra.t)];
      for (int64_t k = 0; k < group_; ++k) to[extra.column * group_ + k] += weight * from[k];
    }
  }

  void make_whole(int32_t y, C* to) {
    reached_.clear();
    for_each_tap(planes_.rows, y,
                 [&](int32_t i, int32_t t) { reached_.push_back({ring_.row(i, [&](C* row) { load(i, row); }), t}); });
    make_columns(to, [&](size_t phase) -> const auto& {
      terms_.clear();
      for (const auto& [row, ty] : reached_) {
        const C* const weights = taps_.both.data() + int64_t{ty} * planes_.columns.taps;
        for (const FirPhases::Tap& tap : phases_.phases[phase])
          terms_.push_back({columns_.at(row, tap.lane, tap.shift), weights[tap.t]});
      }
      return terms_;
    });
  }

  // A row of output columns, phase by phase; terms_of(phase) lists what a phase is the sum of.
  template <class TermsOf>
  void make_columns(C* to, const TermsOf& terms_of) {
    const int64_t period = phases_.period, phases = static_cast<int64_t>(phases_.phases.size());
    for (int64_t p = 0; p < phases; ++p) {
      C* const phase = period == 1 ? to : apart_.data() + p * phase_pitch_;
      sum_rows(terms_of(static_cast<size_t>(p)), phases_.count(p) * group_, phase);
    }
    if (period == 1) return;
    if (period == 2 && group_ == 1) return join_two(apart_.data(), apart_.data() + phase_pitch_, width_, to);
    for (int64_t p = 0; p < phases; ++p) {
      const C* from = apart_.data() + p * phase_pitch_;
      for (int64_t x = p; x < phases_.end - phases_.begin; x += period, from += group_) {
        std::copy_n(from, group_, to + x * group_);
      }
    }
  }

  const FirPlanes& planes_;
  const FirTaps<C>& taps_;
  const FirPhases& phases_;
  int64_t group_;
  FirColumns<C> columns_;
  SourceRows source_;
  TargetRows target_;
  SourceRows plus_;
  Prepare prepare_;
  int64_t width_;
  FirRing<C> ring_;
  ScratchVector<C> dealt_;
  int64_t phase_pitch_;
  ScratchVector<C> apart_, result_, added_;
  std::vector<WeightedRow<C>> rows_, terms_;
  // The terms of phases of a separable filter, which are the same for each row.
  std::vector<std::vector<WeightedRow<C>>> along_;
  std::vector<std::pair<const C*, int32_t>> reached_;
  int64_t n_ = 0, c_ = 0;
};

// ---- runs ----------------------------------------------------------------------------------------------------------

// All rows of all items: `source` filtered, and `plus`, which may be `target` itself, if there is one.
template <class C>
void run_fir(const FirPlanes& planes, const FirTaps<C>& taps, const Tensor& source, const Tensor& target,
             const Tensor* plus = nullptr) {
  if (target.numel() == 0) return;
  const bool grouped = planes.channels > 1 && has_groups(&source) && has_groups(&target) && has_groups(plus);
  const FirCut cut(planes, grouped, sizeof(C));
  const SourceRows from = source_rows(&source);
  const TargetRows to = target_rows(&target);
  const int64_t rows = planes.rows.out;
  parallel_for(cut.items * rows, cut.width * cut.group, [&](int64_t begin, int64_t end) {
    std::optional<FirPhases> phases;
    std::optional<FirBand<C>> band;
    int64_t strip_of_band = -1;
    while (begin < end) {
      const int64_t item = begin / rows, first = begin - item * rows, last = std::min(rows, first + end - begin);
      const int64_t strip = item % cut.strips, plane = item / cut.strips;
      if (strip != strip_of_band) {
        band.reset();
        phases.emplace(planes.columns, strip * cut.width,
                       std::min<int64_t>(planes.columns.out, (strip + 1) * cut.width));
        band.emplace(planes, taps, *phases, cut, from, to, source_rows(plus));
        strip_of_band = strip;
      }
      band->run(plane / cut.groups, plane % cut.groups, first, last);
      begin += last - first;
    }
  });
}

// gradient[ty * columns.taps + tx] of h: the sum over all planes and outputs of grad_output[o] * source[i] where tap
// (ty, tx) leads from i to o. In chunks whose bounds depend on shapes and strides alone, added in their order.
template <class C>
std::vector<double> fir_tap_gradient(const FirPlanes& planes, const Tensor& grad_output, const Tensor& source) {
  const FirAxis &rows = planes.rows, &columns = planes.columns;
  const size_t taps = static_cast<size_t>(rows.taps) * static_cast<size_t>(columns.taps);
  std::vector<double> total(taps, 0.0);
  if (grad_output.numel() == 0) return total;
  const bool grouped = planes.channels > 1 && has_groups(&source) && has_groups(&grad_output);
  const FirCut cut(planes, grouped, sizeof(C));
  const SourceRows from = source_rows(&source), grad = source_rows(&grad_output);
  const int64_t all_rows = cut.items * rows.out;
  constexpr int64_t kMostChunks = 64;
  const int64_t chunk = (all_rows + kMostChunks - 1) / kMostChunks, chunks = (all_rows + chunk - 1) / chunk;
  std::vector<double> sums(static_cast<size_t>(chunks) * taps, 0.0);
  parallel_for(chunks, chunk * cut.width * cut.group, [&](int64_t first_chunk, int64_t last_chunk) {
    for (int64_t which = first_chunk; which < last_chunk; ++which) {
      double* const sum = sums.data() + which * static_cast<int64_t>(taps);
      int64_t item_of_ring = -1;
      std::optional<FirPhases> phases;
      std::optional<FirColumns<C>> lanes;
      std::optional<FirRing<C>> ring;
      ScratchVector<C> loaded, apart;
      for (int64_t k = which * chunk; k < std::min(all_rows, (which + 1) * chunk); ++k) {
        const int64_t item = k / rows.out, y = k - item * rows.out, strip = item % cut.strips,
                      plane = item / cut.strips;
        const int64_t n = plane / cut.groups, c = plane % cut.groups;
        if (item != item_of_ring) {
          phases.emplace(columns, strip * cut.width, std::min<int64_t>(columns.out, (strip + 1) * cut.width));
          lanes.emplace(columns, *phases, cut.group);
          ring.emplace(fir_window(rows), lanes->length());
          item_of_ring = item;
        }
        const int64_t width = phases->end - phases->begin, pitch = phases->count(0) * cut.group;
        loaded.resize(static_cast<size_t>(width * cut.group));
        apart.resize(static_cast<size_t>(phases->period * pitch));
        load_run(grad.dtype, grad.data, grad.at(n, c, y, phases->begin), grad.stride(cut.group), width * cut.group,
                 loaded.data());
        for (int64_t x = 0; x < width; ++x) {
          std::copy_n(loaded.data() + x * cut.group, cut.group,
                      apart.data() + x % phases->period * pitch + x / phases->period * cut.group);
        }
        for_each_tap(rows, static_cast<int32_t>(y), [&](int32_t i, int32_t ty) {
          const C* const row = ring->row(i, [&](C* to) { lanes->load(from, n, c, i, to); });
          for (size_t p = 0; p < phases->phases.size(); ++p) {
            const int64_t phase = static_cast<int64_t>(p);
            for (const FirPhases::Tap& tap : phases->phases[p]) {
              sum[ty * columns.taps + tap.t] += sum_of_products(
                  apart.data() + phase * pitch, lanes->at(row, tap.lane, tap.shift), phases->count(phase) * cut.group);
            }
          }
        });
      }
    }
  });
  for (int64_t which = 0; which < chunks; ++which) {
    for (size_t t = 0; t < taps; ++t) total[t] += sums[static_cast<size_t>(which) * taps + t];
  }
  return total;
}

}  // namespace handgrad
