// The derivatives of chains of tones on the CPU, first and second. What autocontrast's ends are given is a sum over
// their channel, and takes a pass of its own before the last. An image with a step that has no slope is left out.
#pragma once

#include "adjust_tones_numbers.h"

namespace handgrad::adjust_tones {

// In plain numbers the backward; in dual ones the double backward, whose results are tangents.
template <class N>
class Differentiator {
  using C = Plain<N>;

 public:
  Differentiator(const Geometry& geometry, const ChainTable& table, const PixelWalk& walk, const Derivative& call)
      : geometry_(geometry),
        walk_(walk),
        call_(call),
        flat_(flat_images(geometry, table)),
        chains_(geometry, walk, table, flat_) {
    chains_.find_out([&](const PixelRun& run, int64_t c, N* x) { load(run, c, x); });
  }

  void run() {
    for (int64_t k = geometry_.steps; k-- > 0;) {
      if (call_.wants_image && chains_.any_is(k, Operation::autocontrast)) find_gradients_of_ends(k);
    }
    walk_.for_each_piece([&](int64_t begin, int64_t end) {
      std::vector<State> states(static_cast<size_t>(geometry_.steps + 1));
      State grads;
      for (int64_t index = begin; index < end; ++index) {
        const PixelRun run = walk_.run(index);
        for (int64_t c = 0; c < geometry_.channels; ++c) {
          step_forward(run, c, states);
          if (call_.wants_output) store(run, c, states.back(), call_.grad_grad_output);
          if (!call_.wants_image) continue;
          load_grads(run, c, grads);
          for (int64_t k = geometry_.steps; k-- > 0;) step_back(run, c, k, states, grads);
          store(run, c, grads, call_.grad_image);
        }
      }
    });
  }

 private:
  using State = std::array<N, kRun>;

  const Geometry& geometry_;
  const PixelWalk& walk_;
  const Derivative& call_;
  std::vector<bool> flat_;  // [N]
  Chains<N> chains_;

  static std::vector<bool> flat_images(const Geometry& geometry, const ChainTable& table) {
    std::vector<bool> flat;
    for (int64_t n = 0; n < geometry.batch; ++n) flat.push_back(table.is_flat(n));
    return flat;
  }
  int64_t plane_of(const PixelRun& run, int64_t c) const { return run.n * geometry_.channels + c; }

  void find_gradients_of_ends(int64_t k) {
    // How many pixels are the least, and the largest; and what all pixels contribute to the gradients of both.
    struct Found {
      Sums gradients;
      int64_t low = 0, high = 0;

      void join(const Found& other) {
        gradients.join(other.gradients);
        low += other.low, high += other.high;
      }
    };
    const auto found =
        chains_.template gather<Found>(k, Operation::autocontrast, [&](const PixelRun& run, int64_t c, Found& own) {
          std::vector<State> states(static_cast<size_t>(geometry_.steps + 1));
          State grads;
          step_forward(run, c, states);
          load_grads(run, c, grads);
          for (int64_t j = geometry_.steps; --j > k;) step_back(run, c, j, states, grads);
          const Step<N>& step = chains_.step(plane_of(run, c), k);
          const State& before = states[static_cast<size_t>(k)];
          for (size_t i = 0; i < static_cast<size_t>(run.count); ++i) {
            own.gradients.add(contribution(before[i], grads[i], step));
            own.low += value_of(before[i]) == step.low ? 1 : 0;
            own.high += value_of(before[i]) == step.high ? 1 : 0;
          }
        });
    for (int64_t plane = 0; plane < geometry_.planes(); ++plane) {
      const Found& own = found[static_cast<size_t>(plane)];
      Step<N>& step = chains_.step(plane, k);
      if (step.operation != Operation::autocontrast) continue;
      const double low = 1.0 / static_cast<double>(own.low), high = 1.0 / static_cast<double>(own.high);
      assign(own.gradients.of[0] * low, own.gradients.of[1] * low, step.to_low);
      assign(own.gradients.of[2] * high, own.gradients.of[3] * high, step.to_high);
    }
  }

  void step_forward(const PixelRun& run, int64_t c, std::vector<State>& states) const {
    load(run, c, states[0].data());
    for (size_t k = 0; k + 1 < states.size(); ++k) {
      states[k + 1] = states[k];
      apply(chains_.step(plane_of(run, c), static_cast<int64_t>(k)), run.count, states[k + 1].data());
    }
  }
  void step_back(const PixelRun& run, int64_t c, int64_t k, const std::vector<State>& states, State& grads) const {
    const Step<N> step = chains_.step(plane_of(run, c), k);
    for_each_number(run.count, [=, x = states[static_cast<size_t>(k)].data(), grad = grads.data()](int64_t i) {
      grad[i] = pulled_back(x[i], grad[i], step);
    });
  }

  // ---- between memory and numbers, plain or dual ----

  void load_plain(const Tensor& tensor, const PixelRun& run, int64_t c, C* to) const {
    const PixelSource source = source_of(walk_, tensor);
    load_run<C>(source.dtype, source.at(run, c), 0, source.pixel, run.count, to);
  }
  void load(const PixelRun& run, int64_t c, N* x) const {
    if constexpr (std::is_same_v<N, C>) {
      load_plain(*call_.image, run, c, x);
    } else {
      C values[kRun], tangents[kRun] = {};
      load_plain(*call_.image, run, c, values);
      if (call_.direction) load_plain(*call_.direction, run, c, tangents);
      for (int64_t i = 0; i < run.count; ++i) x[i] = {values[i], tangents[i]};
    }
  }
  void load_grads(const PixelRun& run, int64_t c, State& grads) const {
    C values[kRun];
    load_plain(*call_.grad_output, run, c, values);
    for (int64_t i = 0; i < run.count; ++i) grads[static_cast<size_t>(i)] = N(values[i]);
  }
  void store(const PixelRun& run, int64_t c, const State& state, const Tensor& tensor) const {
    const PixelTarget target = target_of(walk_, tensor);
    C results[kRun] = {};
    if (!flat_[static_cast<size_t>(run.n)]) {
      for (int64_t i = 0; i < run.count; ++i) results[i] = result_of(state[static_cast<size_t>(i)]);
    }
    store_run<C>(target.dtype, results, run.count, target.at(run, c), 0, target.pixel);
  }
};

}  // namespace handgrad::adjust_tones
