// The chains of all images on the CPU, and the means that their contrasts blend with.
#pragma once

#include <memory>

#include "adjust_colors_walk.h"

namespace handgrad::adjust_colors {

// Steps in N, [images, steps].
template <class N>
std::vector<Step<N>> steps_of(const Geometry& geometry, const ChainTable& table) {
  std::vector<Step<N>> steps(static_cast<size_t>(geometry.batch * geometry.steps));
  for (int64_t n = 0; n < geometry.batch; ++n) {
    for (int64_t k = 0; k < geometry.steps; ++k) table.fill(n, k, steps[static_cast<size_t>(n * geometry.steps + k)]);
  }
  return steps;
}

// Whether step k of any image is contrast.
template <class N>
bool has_contrast(const std::vector<Step<N>>& steps, const Geometry& geometry, int64_t k) {
  for (size_t i = static_cast<size_t>(k); i < steps.size(); i += static_cast<size_t>(geometry.steps)) {
    if (steps[i].operation == Operation::contrast) return true;
  }
  return false;
}

// The sums of runs over each image, in their order.
template <class W>
W sum_over_image(const std::vector<W>& of_runs, const Walk& walk, int64_t n) {
  W sum{};
  for (int64_t i = n * walk.runs_per_image(); i < (n + 1) * walk.runs_per_image(); ++i)
    sum = sum + of_runs[static_cast<size_t>(i)];
  return sum;
}

// What the pass for a mean has made of levels, where it has turned hues: the next pass begins there. (All else is
// sooner done again.)
class Kept {
 public:
  Kept(const Geometry& geometry, const Walk& walk) : geometry_(geometry), walk_(walk) {
    done_.resize(static_cast<size_t>(geometry.batch));
    next_ = done_;
  }

  // The steps of image n that need not be applied to what `load` gives.
  int64_t done(int64_t n) const { return done_[static_cast<size_t>(n)]; }

  // Before a pass for the means of step k.
  void prepare(const std::vector<Step<float>>& steps, int64_t k) {
    for (int64_t n = 0; n < geometry_.batch; ++n) {
      const Step<float>* own = steps.data() + n * geometry_.steps;
      if (own[k].operation != Operation::contrast) continue;
      for (int64_t j = done(n); j < k; ++j) {
        if (own[j].operation == Operation::hue && geometry_.channels == 3) next_[static_cast<size_t>(n)] = k;
      }
    }
    if (next_ != done_ && !levels_) levels_.reset(new uint8_t[static_cast<size_t>(walk_.runs() * 3 * kRun)]);
  }
  void finish() { done_ = next_; }

  void load(const Run& run, Planes<float>& planes) const {
    for (int c = 0; c < 3; ++c) widen_run(levels_of(run, c), 1, run.count, planes.channel[c]);
  }
  // In a pass for the means of step k.
  void store(const Run& run, int64_t k, const Planes<float>& planes) const {
    if (done(run.n) == k || next_[static_cast<size_t>(run.n)] != k) return;
    for (int c = 0; c < 3; ++c) narrow_levels(planes.channel[c], run.count, levels_of(run, c));
  }

 private:
  const Geometry& geometry_;
  const Walk& walk_;
  std::vector<int64_t> done_, next_;
  std::unique_ptr<uint8_t[]> levels_;  // [runs, channels, kRun]

  uint8_t* levels_of(const Run& run, int c) const { return levels_.get() + (run.index * 3 + c) * kRun; }
};

// Of numbers nothing is kept.
struct KeepsNothing {
  KeepsNothing(const Geometry&, const Walk&) {}
  int64_t done(int64_t) const { return 0; }
  template <class N>
  void prepare(const std::vector<Step<N>>&, int64_t) {}
  void finish() {}
  template <class N>
  void load(const Run&, Planes<N>&) const {}
  template <class N>
  void store(const Run&, int64_t, const Planes<N>&) const {}
};
template <class Ops>
using KeptOf = std::conditional_t<std::is_same_v<Ops, Levels>, Kept, KeepsNothing>;

// Steps [done, k) of a run.
template <class Ops, class Load>
void apply_until(int64_t k, const Geometry& geometry, const std::vector<Step<typename Ops::N>>& steps, const Run& run,
                 const KeptOf<Ops>& kept, const Load& load, Planes<typename Ops::N>& planes) {
  const int64_t done = kept.done(run.n);
  if (done > 0) {
    kept.load(run, planes);
  } else {
    load(run, planes);
  }
  for (int64_t j = done; j < k; ++j)
    Ops::apply(steps[static_cast<size_t>(run.n * geometry.steps + j)], geometry.channels, run.count, planes);
}

// The means that contrast blends with, one step after the other. load(run, planes) reads a run.
template <class Ops, class Load>
void fill_means(const Geometry& geometry, const Walk& walk, std::vector<Step<typename Ops::N>>& steps,
                KeptOf<Ops>& kept, const Load& load) {
  using N = typename Ops::N;
  for (int64_t k = 0; k < geometry.steps; ++k) {
    if (!has_contrast(steps, geometry, k)) continue;
    kept.prepare(steps, k);
    std::vector<typename Ops::Sum> sums(static_cast<size_t>(walk.runs()));
    walk.for_each_piece([&](int64_t begin, int64_t end) {
      Planes<N> planes;
      for (int64_t index = begin; index < end; ++index) {
        const Run run = walk.run(index);
        if (steps[static_cast<size_t>(run.n * geometry.steps + k)].operation != Operation::contrast) continue;
        apply_until<Ops>(k, geometry, steps, run, kept, load, planes);
        kept.store(run, k, planes);
        sums[static_cast<size_t>(index)] =
            Ops::gray_sum(geometry.channels, run.first, geometry.pixels(), run.count, planes);
      }
    });
    kept.finish();
    for (int64_t n = 0; n < geometry.batch; ++n) {
      Step<N>& step = steps[static_cast<size_t>(n * geometry.steps + k)];
      if (step.operation == Operation::contrast)
        step.mean = Ops::mean_of(sum_over_image(sums, walk, n), geometry.pixels());
    }
  }
}

}  // namespace handgrad::adjust_colors
