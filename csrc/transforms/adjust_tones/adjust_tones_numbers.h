// Floating-point numbers on the CPU: what must be known of each channel, one step after the other, each in a pass that
// applies the steps before it and writes nothing; then all steps.
//
// In order of appearance: loops over a run; the steps of all channels; what must be known of them.
#pragma once

#include <limits>

#include "adjust_tones_levels.h"
#include "math/convert.h"

namespace handgrad::adjust_tones {

// ---- loops over a run -----------------------------------------------------------------------------------------------

// body(i) for every number of a run.
template <class Body>
[[gnu::noinline]] void for_each_number(int64_t count, const Body& body) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) body(i);
}

template <class N>
void apply(const Step<N>& step, int64_t count, N* x) {
  const Step<N> local = step;
  switch (step.operation) {
    case Operation::none: return;
    case Operation::solarize: for_each_number(count, [=](int64_t i) { x[i] = solarized(x[i], local.number); }); return;
    case Operation::invert: for_each_number(count, [=](int64_t i) { x[i] = 1 - x[i]; }); return;
    case Operation::autocontrast: for_each_number(count, [=](int64_t i) { x[i] = stretched(x[i], local); }); return;
    default: break;
  }
  if constexpr (std::is_floating_point_v<N>) {
    if (step.operation == Operation::posterize) {
      for_each_number(count, [=](int64_t i) { x[i] = posterized(x[i], local.number); });
    } else {
      for (int64_t i = 0; i < count; ++i) x[i] = equalized(x[i], local.table);
    }
  }
}

// The ends of a run; both are NaN where one of its numbers is.
template <class C>
struct Ends {
  C low = std::numeric_limits<C>::infinity(), high = -std::numeric_limits<C>::infinity();

  Ends() = default;
  Ends(C low, C high) : low(low), high(high) {}

  // Lane by lane, which the compiler takes for what it is.
  template <class N>
  void widen(int64_t count, const N* x) {
    constexpr int64_t kWide = 16;
    C least[kWide], most[kWide], lost[kWide] = {};
    std::fill(least, least + kWide, low);
    std::fill(most, most + kWide, high);
    const auto widen_lanes = [&](const N* from, int64_t lanes) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const C number = value_of(from[lane]);
        least[lane] = number < least[lane] ? number : least[lane];
        most[lane] = number > most[lane] ? number : most[lane];
        lost[lane] = number == number ? lost[lane] : C(1);
      }
    };
    int64_t i = 0;
    for (; i + kWide <= count; i += kWide) widen_lanes(x + i, kWide);
    widen_lanes(x + i, count - i);
    for (int64_t lane = 0; lane < kWide; ++lane) {
      const C nan = std::numeric_limits<C>::quiet_NaN();
      join(lost[lane] > 0 ? Ends{nan, nan} : Ends{least[lane], most[lane]});
    }
  }
  // With NaN as widen has it.
  void join(const Ends& other) {
    low = other.low < low || other.low != other.low ? other.low : low;
    high = other.high > high || other.high != other.high ? other.high : high;
  }
};

// Sums over the pixels of a channel, of two numbers with their tangents.
struct Sums {
  double of[4] = {};

  template <class N>
  void add(const Contribution<N>& more) {
    of[0] += static_cast<double>(value_of(more.low)), of[1] += tangent_of(more.low);
    of[2] += static_cast<double>(value_of(more.high)), of[3] += tangent_of(more.high);
  }
  void join(const Sums& other) {
    for (int q = 0; q < 4; ++q) of[q] += other.of[q];
  }
};

// ---- steps ----------------------------------------------------------------------------------------------------------

template <class N>
class Chains {
  using C = Plain<N>;

 public:
  const Geometry& geometry;
  const PixelWalk& walk;

  // Of an image that is left out all steps are none.
  Chains(const Geometry& geometry, const PixelWalk& walk, const ChainTable& table,
         const std::vector<bool>& left_out = {})
      : geometry(geometry), walk(walk), steps_(static_cast<size_t>(geometry.planes() * geometry.steps)) {
    for (int64_t plane = 0; plane < geometry.planes(); ++plane) {
      const int64_t n = plane / geometry.channels;
      for (int64_t k = 0; k < geometry.steps; ++k) {
        const bool is_left_out = !left_out.empty() && left_out[static_cast<size_t>(n)];
        step(plane, k) = {is_left_out ? Operation::none : table.operation(n, k),
                          static_cast<C>(table.number(n, k)),
                          C(0),
                          C(0),
                          N(0),
                          N(0),
                          N(0),
                          N(0),
                          nullptr};
      }
    }
  }

  Step<N>& step(int64_t plane, int64_t k) { return steps_[static_cast<size_t>(plane * geometry.steps + k)]; }
  const Step<N>& step(int64_t plane, int64_t k) const {
    return steps_[static_cast<size_t>(plane * geometry.steps + k)];
  }
  bool is(int64_t n, int64_t k, Operation operation) const {
    return step(n * geometry.channels, k).operation == operation;
  }
  bool any_is(int64_t k, Operation operation) const {
    for (int64_t n = 0; n < geometry.batch; ++n) {
      if (is(n, k, operation)) return true;
    }
    return false;
  }

  void apply_until(int64_t k, int64_t plane, int64_t count, N* x) const {
    for (int64_t j = 0; j < k; ++j) apply(step(plane, j), count, x);
  }

  // body(run, c, found) for the channels of the runs of all images whose step k is this operation; what is found is
  // joined in the order of the runs, for each channel.
  template <class Found, class Body>
  std::vector<Found> gather(int64_t k, Operation operation, const Body& body) const {
    const int64_t channels = geometry.channels;
    std::vector<Found> of_runs(static_cast<size_t>(walk.runs() * channels));
    walk.for_each_piece([&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const PixelRun run = walk.run(index);
        if (!is(run.n, k, operation)) continue;
        for (int64_t c = 0; c < channels; ++c) body(run, c, of_runs[static_cast<size_t>(index * channels + c)]);
      }
    });
    std::vector<Found> found(static_cast<size_t>(geometry.planes()));
    for (int64_t index = 0; index < walk.runs(); ++index) {
      const int64_t n = index / walk.runs_per_image();
      for (int64_t c = 0; c < channels; ++c)
        found[static_cast<size_t>(n * channels + c)].join(of_runs[static_cast<size_t>(index * channels + c)]);
    }
    return found;
  }

  // load(run, c, x) reads a channel of a run. Steps that are equalize are asked about of plain numbers only.
  template <class Load>
  void find_out(const Load& load) {
    for (int64_t k = 0; k < geometry.steps; ++k) {
      if (any_is(k, Operation::autocontrast)) find_ends(k, load);
      if constexpr (std::is_floating_point_v<N>) {
        if (any_is(k, Operation::equalize)) find_tables(k, load);
      }
    }
  }

 private:
  std::vector<Step<N>> steps_;  // [N, C, K]
  std::vector<std::vector<Table>> tables_;

  template <class Load>
  void find_ends(int64_t k, const Load& load) {
    const auto ends = gather<Ends<C>>(k, Operation::autocontrast, [&](const PixelRun& run, int64_t c, Ends<C>& found) {
      N x[kRun];
      load(run, c, x);
      apply_until(k, run.n * geometry.channels + c, run.count, x);
      found.widen(run.count, x);
    });
    for (int64_t plane = 0; plane < geometry.planes(); ++plane) {
      Step<N>& own = step(plane, k);
      if (own.operation != Operation::autocontrast) continue;
      own.low = ends[static_cast<size_t>(plane)].low, own.high = ends[static_cast<size_t>(plane)].high;
      own.least = N(own.low), own.range = N(own.high - own.low);
    }
    if constexpr (!std::is_floating_point_v<N>) find_tangents_of_ends(k, load);
  }

  // Of several pixels that are the least, or the largest, the mean.
  template <class Load>
  void find_tangents_of_ends(int64_t k, const Load& load) {
    const auto sums = gather<Sums>(k, Operation::autocontrast, [&](const PixelRun& run, int64_t c, Sums& found) {
      const Step<N>& own = step(run.n * geometry.channels + c, k);
      N x[kRun];
      load(run, c, x);
      apply_until(k, run.n * geometry.channels + c, run.count, x);
      for (int64_t i = 0; i < run.count; ++i) {
        if (x[i].value == own.low) found.add(Contribution<N>{{C(1), x[i].tangent}, {C(0), C(0)}});
        if (x[i].value == own.high) found.add(Contribution<N>{{C(0), C(0)}, {C(1), x[i].tangent}});
      }
    });
    for (int64_t plane = 0; plane < geometry.planes(); ++plane) {
      Step<N>& own = step(plane, k);
      const double* of = sums[static_cast<size_t>(plane)].of;
      if (own.operation != Operation::autocontrast) continue;
      own.least.tangent = static_cast<C>(of[1] / of[0]);
      own.range.tangent = static_cast<C>(of[3] / of[2] - of[1] / of[0]);
    }
  }

  template <class Load>
  void count_numbers(int64_t k, const PixelRun& run, int64_t c, const Load& load, Histogram& histogram) const {
    N x[kRun];
    load(run, c, x);
    apply_until(k, run.n * geometry.channels + c, run.count, x);
    for (int64_t i = 0; i < run.count; ++i) ++histogram[static_cast<size_t>(level_of(x[i]))];
  }

  template <class Load>
  void find_tables(int64_t k, const Load& load) {
    std::vector<Histogram> histograms(static_cast<size_t>(geometry.planes()), Histogram{});
    std::mutex mutex;
    walk.for_each_piece([&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end;) {
        const int64_t n = walk.run(index).n, last = std::min(end, (n + 1) * walk.runs_per_image());
        std::vector<Histogram> own(static_cast<size_t>(geometry.channels), Histogram{});
        for (; index < last && is(n, k, Operation::equalize); ++index) {
          for (int64_t c = 0; c < geometry.channels; ++c)
            count_numbers(k, walk.run(index), c, load, own[static_cast<size_t>(c)]);
        }
        index = last;
        // Whole numbers: who is first does not matter.
        const std::lock_guard<std::mutex> lock(mutex);
        for (size_t c = 0; c < own.size(); ++c) {
          Histogram& all = histograms[static_cast<size_t>(n * geometry.channels) + c];
          for (size_t level = 0; level < kLevels; ++level) all[level] += own[c][level];
        }
      }
    });
    std::vector<Table>& tables = tables_.emplace_back(static_cast<size_t>(geometry.planes()));
    for (int64_t plane = 0; plane < geometry.planes(); ++plane) {
      Table& table = tables[static_cast<size_t>(plane)];
      for (size_t level = 0; level < kLevels; ++level) table[level] = static_cast<uint8_t>(level);
      equalize_table(histograms[static_cast<size_t>(plane)], table);
      if (step(plane, k).operation == Operation::equalize) step(plane, k).table = table.data();
    }
  }
};

template <class C>
void tone_numbers(const Geometry& geometry, const ChainTable& table, const Tensor& image, const Tensor& output) {
  const PixelWalk walk(geometry, {&image, &output});
  const PixelSource source = source_of(walk, image);
  const PixelTarget target = target_of(walk, output);
  const auto load = [&](const PixelRun& run, int64_t c, C* x) {
    load_run<C>(source.dtype, source.at(run, c), 0, source.pixel, run.count, x);
  };
  Chains<C> chains(geometry, walk, table);
  chains.find_out(load);
  walk.for_each_piece([&](int64_t begin, int64_t end) {
    C x[kRun];
    for (int64_t index = begin; index < end; ++index) {
      const PixelRun run = walk.run(index);
      for (int64_t c = 0; c < geometry.channels; ++c) {
        load(run, c, x);
        chains.apply_until(geometry.steps, run.n * geometry.channels + c, run.count, x);
        store_run<C>(target.dtype, x, run.count, target.at(run, c), 0, target.pixel);
      }
    }
  });
}

}  // namespace handgrad::adjust_tones
