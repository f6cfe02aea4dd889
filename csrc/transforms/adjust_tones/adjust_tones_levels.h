// Levels on the CPU: every chain of operations on one is a table of 256, so that an image is read once for what must be
// known of it, its histogram or only its ends, and once more to be looked up. Where nothing must be known, bytes are
// computed with, and where the table is a line too.
//
// In order of appearance: the histogram of a channel; tables; lines; both passes.
#pragma once

#include <memory>
#include <mutex>

#include "adjust_tones_bytes.h"
#include "adjust_tones_host.h"
#include "cpu/pixel_runs.h"

namespace handgrad::adjust_tones {

using Histogram = std::array<int64_t, kLevels>;

// ---- the histogram --------------------------------------------------------------------------------------------------

// What is known of the channels of an image before its tables are made.
enum class Knowledge { none, ends, histogram };

// Of one autocontrast with nothing before it the ends of each channel are enough.
inline Knowledge needed_knowledge(const ChainTable& chain, int64_t n) {
  int64_t stretches = 0, others = 0, first = 0;
  for (int64_t k = chain.steps; k-- > 0;) {
    const Operation operation = chain.operation(n, k);
    if (operation == Operation::none) continue;
    first = k;
    stretches += operation == Operation::autocontrast ? 1 : 0;
    others += operation == Operation::equalize ? 1 : 0;
  }
  if (stretches + others == 0) return Knowledge::none;
  return others == 0 && stretches == 1 && chain.operation(n, first) == Operation::autocontrast ? Knowledge::ends
                                                                                               : Knowledge::histogram;
}

// What a thread finds out of the channels of one image. Of ends, the histogram is of these alone.
class Tally {
 public:
  Tally(Knowledge knowledge, int64_t channels, const PixelSource& source)
      : channels_(channels), packed_(source.is_packed(channels) && kLanes % channels == 0) {
    has_ends_ = knowledge == Knowledge::ends && (packed_ || source.pixel == 1);
    if (has_ends_) {
      ends_.resize(static_cast<size_t>(packed_ ? 1 : channels));
    } else {
      counts_.resize(static_cast<size_t>(channels));
    }
  }

  void add(const PixelSource& source, const PixelRun& run) {
    for (size_t c = 0; c < counts_.size(); ++c)
      count_levels(source.at(run, static_cast<int64_t>(c)), source.pixel, run.count, counts_[c]);
    for (size_t c = 0; c < ends_.size(); ++c)
      ends_[c].add(source.at(run, static_cast<int64_t>(c)), packed_ ? run.count * channels_ : run.count,
                   packed_ && channels_ == 3);
  }

  // histograms: of the channels of the image.
  void add_to(Histogram* histograms) const {
    for (size_t c = 0; c < counts_.size(); ++c) {
      for (size_t level = 0; level < kLevels; ++level) {
        for (const auto& bank : counts_[c]) histograms[c][level] += bank[level];
      }
    }
    for (size_t c = 0; c < ends_.size(); ++c) {
      for (size_t lane = 0; lane < size_t{kLanes}; ++lane) {
        Histogram& own = histograms[packed_ ? lane % static_cast<size_t>(channels_) : c];
        if (ends_[c].low[lane] <= ends_[c].high[lane]) ++own[ends_[c].low[lane]], ++own[ends_[c].high[lane]];
      }
    }
  }

 private:
  // Of neighbouring bytes, lane by lane; of packed pixels lane k is of channel k modulo their number.
  struct Ends {
    uint8_t low[kLanes], high[kLanes];

    Ends() {
      std::fill(low, low + kLanes, uint8_t{255});
      std::fill(high, high + kLanes, uint8_t{0});
    }
    // Whole runs are multiples of 64 bytes, and of 192 where pixels are of three.
    void add(const uint8_t* from, int64_t count, bool of_three) {
      const int64_t lanes = of_three ? kLanes : 64, blocks = count / lanes;
      if (of_three) {
        widen_ends<kLanes>(from, blocks, low, high);
      } else {
        widen_ends<64>(from, blocks, low, high);
      }
      for (int64_t i = blocks * lanes; i < count; ++i) {
        const int64_t lane = i - blocks * lanes;
        low[lane] = std::min(low[lane], from[i]), high[lane] = std::max(high[lane], from[i]);
      }
    }
  };
  int64_t channels_;
  bool packed_, has_ends_;
  std::vector<Counts> counts_;
  std::vector<Ends> ends_;
};

// ---- tables ---------------------------------------------------------------------------------------------------------

inline void equalize_table(const Histogram& histogram, Table& table) {
  int64_t counts[kLevels] = {}, below[kLevels], pixels = 0, last = 0;
  for (size_t level = 0; level < kLevels; ++level) counts[table[level]] += histogram[level];
  for (size_t level = 0; level < kLevels; ++level) {
    below[level] = pixels;
    pixels += counts[level];
    last = counts[level] > 0 ? counts[level] : last;
  }
  for (uint8_t& level : table) level = static_cast<uint8_t>(equalized_level(level, below[level], pixels - last));
}

inline void stretch_table(const Histogram& histogram, Table& table) {
  int32_t low = 255, high = 0;
  for (size_t level = 0; level < kLevels; ++level) {
    if (histogram[level] == 0) continue;
    low = std::min<int32_t>(low, table[level]), high = std::max<int32_t>(high, table[level]);
  }
  for (uint8_t& level : table) level = static_cast<uint8_t>(stretched_level(level, low, high));
}

// All steps of an image, for a channel of this histogram.
inline Table table_of(const ChainTable& chain, int64_t n, const Histogram& histogram) {
  Table table;
  for (size_t level = 0; level < kLevels; ++level) table[level] = static_cast<uint8_t>(level);
  for (int64_t k = 0; k < chain.steps; ++k) {
    const Operation operation = chain.operation(n, k);
    if (operation == Operation::autocontrast) {
      stretch_table(histogram, table);
    } else if (operation == Operation::equalize) {
      equalize_table(histogram, table);
    } else {
      const double number = chain.number(n, k);
      for (uint8_t& level : table) level = static_cast<uint8_t>(pointwise_level(operation, number, level));
    }
  }
  return table;
}

// The pointwise steps of an image on neighbouring bytes.
inline void compute_bytes(const ChainTable& chain, int64_t n, const uint8_t* from, int64_t count, uint8_t* to) {
  for (int64_t k = 0; k < chain.steps; ++k) {
    const Operation operation = chain.operation(n, k);
    const int32_t least = operation == Operation::solarize ? turning_level(chain.number(n, k)) : 0;
    if (operation == Operation::none || least == kLevels) continue;
    if (operation == Operation::posterize) {
      mask_bytes(from, count, static_cast<uint8_t>(mask_of(chain.number(n, k))), to);
    } else {
      turn_bytes(from, count, static_cast<uint8_t>(least), to);
    }
    from = to;
  }
  if (from != to) std::copy(from, from + count, to);
}

// ---- lines ----------------------------------------------------------------------------------------------------------

// Between its ends the table of an autocontrast is a line, truncated, which is computed faster than looked up. Its
// exact values are whole, or at least 1 / 255 away from what is: a shift by half of that decides on which side the
// whole ones are, and leaves the others. (That is so for all of them or not at all, as torch rounds; then it is no
// line.)
struct Line {
  float slope, start;
  bool fits;
};
inline Line line_of(const Histogram& ends, const Table& table) {
  size_t low = 0, high = kLevels - 1;
  while (low < high && ends[low] == 0) ++low;
  while (high > low && ends[high] == 0) --high;
  if (low == high) return {0, static_cast<float>(table[low]), true};
  const float slope = 255.0f / static_cast<float>(high - low), shift = table[high] == 255 ? 0.002f : -0.002f;
  Line line{slope, shift - slope * static_cast<float>(low), true};
  for (size_t level = low; level <= high; ++level) {
    const float value = static_cast<float>(level) * line.slope + line.start;
    line.fits = line.fits && static_cast<int32_t>(value) == table[level];
  }
  return line;
}

// ---- both passes ----------------------------------------------------------------------------------------------------

// The histograms of what needs one, [N, C].
inline std::vector<Histogram> histograms_of(const Geometry& geometry, const ChainTable& chain, const PixelWalk& walk,
                                            const PixelSource& source) {
  std::vector<Histogram> histograms(static_cast<size_t>(geometry.planes()), Histogram{});
  std::mutex mutex;
  // As many runs of one image as a count of 32 bits holds.
  constexpr int64_t kMost = int64_t{1} << 18;
  walk.for_each_piece([&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end;) {
      const int64_t n = walk.run(index).n, last = std::min({end, (n + 1) * walk.runs_per_image(), index + kMost});
      const Knowledge knowledge = needed_knowledge(chain, n);
      if (knowledge == Knowledge::none) {
        index = last;
        continue;
      }
      Tally tally(knowledge, geometry.channels, source);
      for (; index < last; ++index) tally.add(source, walk.run(index));
      // Whole numbers: who is first does not matter.
      const std::lock_guard<std::mutex> lock(mutex);
      tally.add_to(histograms.data() + n * geometry.channels);
    }
  });
  return histograms;
}

// How each image is made of itself: by computing with bytes, along lines, or by looking levels up.
enum class Way { pointwise, lines, tables };

class LevelToner {
 public:
  LevelToner(const Geometry& geometry, const ChainTable& chain, const Tensor& image, const Tensor& output)
      : geometry_(geometry),
        chain_(chain),
        walk_(geometry, {&image, &output}, kLevelRun),
        source_(source_of(walk_, image)),
        target_(target_of(walk_, output)),
        packed_(source_.is_packed(geometry.channels) && target_.is_packed(geometry.channels) &&
                kLanes % geometry.channels == 0),
        is_dense_(packed_ || (source_.pixel == 1 && target_.pixel == 1)) {
    plan();
  }

  void run() const {
    walk_.for_each_piece([&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) tone(walk_.run(index));
    });
  }

 private:
  // Pixels of a run of levels: input and output stay in the nearest cache.
  static constexpr int64_t kLevelRun = 4096;
  const Geometry& geometry_;
  const ChainTable& chain_;
  const PixelWalk walk_;
  const PixelSource source_;
  const PixelTarget target_;
  // Whether pixels are computed with as one row of bytes; whether such rows are there at all.
  const bool packed_, is_dense_;
  std::vector<Way> ways_;      // [N]
  std::vector<Table> tables_;  // [N, C]
  std::vector<Lines> lines_;   // [N, C], or of packed pixels [N]

  size_t place(int64_t n, int64_t c) const { return static_cast<size_t>(n * geometry_.channels + c); }

  void plan() {
    bool any = false;
    for (int64_t n = 0; n < geometry_.batch; ++n) any = any || chain_.has_statistic(n);
    ways_.assign(static_cast<size_t>(geometry_.batch), Way::pointwise);
    if (!any && is_dense_) return;
    std::vector<Histogram> histograms(static_cast<size_t>(geometry_.planes()), Histogram{});
    if (any) histograms = histograms_of(geometry_, chain_, walk_, source_);
    tables_.resize(histograms.size());
    lines_.resize(any && is_dense_ ? (packed_ ? ways_.size() : tables_.size()) : 0);
    for (int64_t n = 0; n < geometry_.batch; ++n) {
      const bool is_pointwise = !chain_.has_statistic(n);
      if (is_pointwise && is_dense_) continue;
      for (int64_t c = 0; c < geometry_.channels; ++c)
        tables_[place(n, c)] =
            is_pointwise && c > 0 ? tables_[place(n, 0)] : table_of(chain_, n, histograms[place(n, c)]);
      const bool has_lines =
          is_dense_ && needed_knowledge(chain_, n) == Knowledge::ends && plan_lines(n, histograms.data() + place(n, 0));
      ways_[static_cast<size_t>(n)] = has_lines ? Way::lines : Way::tables;
    }
  }

  bool plan_lines(int64_t n, const Histogram* ends) {
    bool fits = true;
    for (int64_t c = 0; c < geometry_.channels; ++c) {
      const Line line = line_of(ends[c], tables_[place(n, c)]);
      Lines& lines = lines_[packed_ ? static_cast<size_t>(n) : place(n, c)];
      for (int64_t lane = packed_ ? c : 0; lane < kLanes; lane += packed_ ? geometry_.channels : 1)
        lines.slopes[lane] = line.slope, lines.starts[lane] = line.start;
      fits = fits && line.fits;
    }
    return fits;
  }

  void tone(const PixelRun& run) const {
    const Way way = ways_[static_cast<size_t>(run.n)];
    if (way == Way::tables) {
      for (int64_t c = 0; c < geometry_.channels; ++c)
        look_up(tables_[place(run.n, c)], source_.at(run, c), source_.pixel, run.count, target_.at(run, c),
                target_.pixel);
      return;
    }
    const int64_t count = packed_ ? run.count * geometry_.channels : run.count;
    for (int64_t c = 0; c < (packed_ ? 1 : geometry_.channels); ++c) {
      if (way == Way::pointwise) {
        compute_bytes(chain_, run.n, source_.at(run, c), count, target_.at(run, c));
      } else {
        stretch_bytes(source_.at(run, c), count, lines_[packed_ ? static_cast<size_t>(run.n) : place(run.n, c)],
                      target_.at(run, c));
      }
    }
  }
};

}  // namespace handgrad::adjust_tones
