// The derivatives of chains of colour operations on the CPU, first and second.
#pragma once

#include "adjust_colors_chains.h"

namespace handgrad::adjust_colors {

// The tensors of a derivative; those that are not there are null.
struct Derivative {
  const Tensor *image, *grad_output, *direction;  // [N, C, H, W]
  const Tensor *grad_grad_output, *grad_image;    // [N, C, H, W]
  const Tensor* grad_factors;                     // [N, K]
  std::vector<double> std;
};

template <class C>
C result_of(C x) {
  return x;
}
template <class C>
C result_of(Dual<C> x) {
  return x.tangent;
}

// In plain numbers the backward; in dual ones the double backward, whose results are tangents.
template <class N>
class Differentiator {
  using C = Plain<N>;
  using Ops = Numbers<N>;

 public:
  Differentiator(const Geometry& geometry, const ChainTable& table, const Walk& walk, const Derivative& call)
      : geometry_(geometry), walk_(walk), call_(call), steps_(steps_of<N>(geometry, table)) {
    of_grays_.assign(steps_.size(), N(0));
    KeepsNothing kept(geometry, walk);
    fill_means<Ops>(geometry, walk, steps_, kept, [&](const Run& run, Planes<N>& planes) { load(run, planes); });
  }

  void run() {
    for (int64_t k = geometry_.steps; k-- > 0;) {
      if (has_contrast(steps_, geometry_, k)) fill_of_grays(k);
    }
    const int64_t steps = geometry_.steps;
    std::vector<std::vector<Wide<N>>> sums(static_cast<size_t>(call_.grad_factors ? steps : 0));
    for (auto& of_runs : sums) of_runs.assign(static_cast<size_t>(walk_.runs()), Wide<N>(0));
    walk_.for_each_piece([&](int64_t begin, int64_t end) {
      std::vector<Planes<N>> states(static_cast<size_t>(steps + 1));
      Planes<N> grads;
      for (int64_t index = begin; index < end; ++index) {
        const Run run = walk_.run(index);
        step_forward(run, states);
        if (call_.grad_grad_output) store_results(states.back(), run, *call_.grad_grad_output, true);
        load_grads(run, grads);
        for (int64_t k = steps; k-- > 0;) {
          const ContributionSums<N> own = step_back(run, k, states, grads);
          if (call_.grad_factors) sums[static_cast<size_t>(k)][static_cast<size_t>(index)] = own.factor;
        }
        if (call_.grad_image) store_results(grads, run, *call_.grad_image, false);
      }
    });
    if (!call_.grad_factors) return;
    const View<double, 2> to = mutable_view<double, 2>(*call_.grad_factors);
    for (int64_t n = 0; n < geometry_.batch; ++n) {
      for (int64_t k = 0; k < steps; ++k)
        *to.at(n, k) = result_of(sum_over_image(sums[static_cast<size_t>(k)], walk_, n));
    }
  }

 private:
  const Geometry& geometry_;
  const Walk& walk_;
  const Derivative& call_;
  std::vector<Step<N>> steps_;  // [N, K]
  // What the gradient of a contrast's mean gives to every gray of its image.
  std::vector<N> of_grays_;  // [N, K]

  size_t place(const Run& run, int64_t k) const { return static_cast<size_t>(run.n * geometry_.steps + k); }

  void fill_of_grays(int64_t k) {
    std::vector<Wide<N>> sums(static_cast<size_t>(walk_.runs()), Wide<N>(0));
    walk_.for_each_piece([&](int64_t begin, int64_t end) {
      std::vector<Planes<N>> states(static_cast<size_t>(geometry_.steps + 1));
      Planes<N> grads;
      for (int64_t index = begin; index < end; ++index) {
        const Run run = walk_.run(index);
        if (steps_[place(run, k)].operation != Operation::contrast) continue;
        step_forward(run, states);
        load_grads(run, grads);
        for (int64_t j = geometry_.steps; j-- > k;) {
          const ContributionSums<N> own = step_back(run, j, states, grads);
          if (j == k) sums[static_cast<size_t>(index)] = own.mean;
        }
      }
    });
    for (int64_t n = 0; n < geometry_.batch; ++n) {
      of_grays_[static_cast<size_t>(n * geometry_.steps + k)] =
          Ops::mean_of(sum_over_image(sums, walk_, n), geometry_.pixels());
    }
  }

  void step_forward(const Run& run, std::vector<Planes<N>>& states) const {
    load(run, states[0]);
    for (int64_t k = 0; k < geometry_.steps; ++k) {
      Planes<N>& next = states[static_cast<size_t>(k + 1)];
      next = states[static_cast<size_t>(k)];
      Ops::apply(steps_[place(run, k)], geometry_.channels, run.count, next);
    }
  }

  ContributionSums<N> step_back(const Run& run, int64_t k, const std::vector<Planes<N>>& states,
                                Planes<N>& grads) const {
    return pull_back(steps_[place(run, k)], of_grays_[place(run, k)], geometry_.channels, run.count,
                     states[static_cast<size_t>(k)], grads);
  }

  // ---- between memory and numbers, plain or dual ----

  void load(const Run& run, Planes<N>& planes) const {
    if constexpr (std::is_same_v<N, C>) {
      load_planes(source_of(walk_, *call_.image), geometry_.channels, run, planes);
    } else {
      Planes<C> values, tangents{};
      load_planes(source_of(walk_, *call_.image), geometry_.channels, run, values);
      if (call_.direction) load_planes(source_of(walk_, *call_.direction), geometry_.channels, run, tangents);
      for (int64_t c = 0; c < geometry_.channels; ++c) {
        for (int64_t i = 0; i < run.count; ++i) planes.channel[c][i] = {values.channel[c][i], tangents.channel[c][i]};
      }
    }
  }

  void load_grads(const Run& run, Planes<N>& grads) const {
    Planes<C> values;
    load_planes(source_of(walk_, *call_.grad_output), geometry_.channels, run, values);
    divide(values, run);
    for (int64_t c = 0; c < geometry_.channels; ++c) {
      for (int64_t i = 0; i < run.count; ++i) grads.channel[c][i] = N(values.channel[c][i]);
    }
  }

  void store_results(const Planes<N>& planes, const Run& run, const Tensor& tensor, bool divides) const {
    Planes<C> results;
    for (int64_t c = 0; c < geometry_.channels; ++c) {
      for (int64_t i = 0; i < run.count; ++i) results.channel[c][i] = result_of(planes.channel[c][i]);
    }
    if (divides) divide(results, run);
    store_planes(results.channel, geometry_.channels, run, target_of(walk_, tensor));
  }

  void divide(Planes<C>& planes, const Run& run) const {
    for (size_t c = 0; c < call_.std.size(); ++c) {
      const C by = static_cast<C>(call_.std[c]);
      for (int64_t i = 0; i < run.count; ++i) planes.channel[c][i] /= by;
    }
  }
};

}  // namespace handgrad::adjust_colors
