// The chains of all images on the CPU, and the means that their contrasts blend with.
#pragma once

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

// The means that contrast blends with, one step after the other. load(run, planes) reads a run.
template <class Ops, class Load>
void fill_means(const Geometry& geometry, const Walk& walk, std::vector<Step<typename Ops::N>>& steps,
                const Load& load) {
  using N = typename Ops::N;
  for (int64_t k = 0; k < geometry.steps; ++k) {
    if (!has_contrast(steps, geometry, k)) continue;
    std::vector<typename Ops::Sum> sums(static_cast<size_t>(walk.runs()));
    walk.for_each_piece([&](int64_t begin, int64_t end) {
      Planes<N> planes;
      for (int64_t index = begin; index < end; ++index) {
        const Run run = walk.run(index);
        const Step<N>* own = steps.data() + run.n * geometry.steps;
        if (own[k].operation != Operation::contrast) continue;
        load(run, planes);
        for (int64_t j = 0; j < k; ++j) Ops::apply(own[j], geometry.channels, run.count, planes);
        sums[static_cast<size_t>(index)] =
            Ops::gray_sum(geometry.channels, run.first, geometry.pixels(), run.count, planes);
      }
    });
    for (int64_t n = 0; n < geometry.batch; ++n) {
      Step<N>& step = steps[static_cast<size_t>(n * geometry.steps + k)];
      if (step.operation == Operation::contrast)
        step.mean = Ops::mean_of(sum_over_image(sums, walk, n), geometry.pixels());
    }
  }
}

}  // namespace handgrad::adjust_colors
