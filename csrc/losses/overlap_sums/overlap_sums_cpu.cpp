// The sums that overlap losses are made of, on the CPU, tile by tile.
//
// Partial sums go over chunks of tiles whose bounds depend on the shape alone, and are added in order, in double: the
// same bits for any number of threads. Nothing is kept from forward to backward but inputs and targets.
#include <atomic>

#include "kinds/formula.h"
#include "overlap_sums_tiles.h"

namespace handgrad::overlap_sums {
namespace {

// A target as a number, and whether it is counted, of channel c.
template <class C, bool Classes>
struct TargetLine {
  const C* values;
  C channel, ignored;

  bool counted(int64_t i) const {
    if constexpr (Classes) {
      return values[i] >= 0;
    } else {
      return values[i] != ignored;
    }
  }
  C operator()(int64_t i) const {
    if constexpr (Classes) {
      return values[i] == channel ? C(1) : C(0);
    } else {
      return only(counted(i), values[i]);
    }
  }
};

template <class C, bool Classes>
TargetLine<C, Classes> target_line(Tile<C>& tile, int64_t c) {
  return {tile.targets(c), static_cast<C>(c), tile.ignored()};
}

// The sum of one(i) over a line, in lanes that are kept in registers and added up as a tree; on to totals in double.
template <class C, class One>
HANDGRAD_MATH void add_line(int64_t count, const One& one, double* totals) {
  constexpr int64_t lanes = 32;
  C overlap[lanes] = {}, predictions[lanes] = {}, targets[lanes] = {};
  const int64_t whole = count / lanes * lanes;
  for (int64_t first = 0; first < whole; first += lanes) {
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const Sums<C> of = one(first + lane);
      overlap[lane] += of.overlap;
      predictions[lane] += of.predictions;
      targets[lane] += of.targets;
    }
  }
  for (int64_t i = whole; i < count; ++i) {
    const Sums<C> of = one(i);
    overlap[i - whole] += of.overlap;
    predictions[i - whole] += of.predictions;
    targets[i - whole] += of.targets;
  }
  for (int64_t half = lanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) {
      overlap[lane] += overlap[lane + half];
      predictions[lane] += predictions[lane + half];
      targets[lane] += targets[lane + half];
    }
  }
  totals[0] += static_cast<double>(overlap[0]);
  totals[1] += static_cast<double>(predictions[0]);
  totals[2] += static_cast<double>(targets[0]);
}

// The sums of a tile, added to those of all channels; `Second`: their derivatives along the directions.
template <class C, bool Classes, bool Second>
[[gnu::noinline]] void add_sums(const Problem& problem, Tile<C>& tile, double* totals) {
  const Measure<C> measure{problem.squared};
  const int64_t count = tile.count();
  for (int64_t c = 0; c < problem.channels; ++c) {
    const TargetLine<C, Classes> t = target_line<C, Classes>(tile, c);
    const PredictionLine<C> p = tile.p(c);
    if constexpr (Second) {
      const C *const dp = tile.dp(c), *const dt = tile.target_directions(c);
      const auto one = [&](int64_t i) {
        const bool counted = t.counted(i);
        return measure.moved(only(counted, p[i]), t(i), only(counted, dp[i]), only(counted, dt[i]));
      };
      add_line<C>(count, one, totals + kSums * c);
    } else {
      const auto one = [&](int64_t i) { return measure.contribution(only(t.counted(i), p[i]), t(i)); };
      add_line<C>(count, one, totals + kSums * c);
    }
  }
}

// Under softmax: at each position the sum over channels of p times the gradient with respect to it.
template <class C, bool Classes>
[[gnu::noinline]] void add_up_channels(const Problem& problem, Tile<C>& tile, const Sums<C>* g) {
  const Measure<C> measure{problem.squared};
  const int64_t count = tile.count();
  C* __restrict const dot = tile.dot();
  std::fill(dot, dot + count, C(0));
  for (int64_t c = 0; c < problem.channels; ++c) {
    const TargetLine<C, Classes> t = target_line<C, Classes>(tile, c);
    const PredictionLine<C> p = tile.p(c);
    const Sums<C> of = g[c];
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) dot[i] += only(t.counted(i), p[i] * measure.of_prediction(of, p[i], t(i)));
  }
}

template <class C, bool Classes>
[[gnu::noinline]] void write_gradients(const Problem& problem, Tile<C>& tile, const Sums<C>* g, const Views<C>& views) {
  const Measure<C> measure{problem.squared};
  const int64_t count = tile.count();
  const bool softmax = problem.activation == Activation::softmax, plain = problem.activation == Activation::none;
  const C* const dot = tile.dot();
  const C* const any = tile.counted();
  for (int64_t c = 0; c < problem.channels; ++c) {
    const TargetLine<C, Classes> t = target_line<C, Classes>(tile, c);
    const PredictionLine<C> p = tile.p(c);
    const Sums<C> of = g[c];
    if (views.grad_inputs) {
      C* __restrict const result = tile.result(views.grad_inputs, c);
      if (softmax) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) {
          const C u = only(t.counted(i), measure.of_prediction(of, p[i], t(i)));
          result[i] = only(Classes ? t.counted(i) : any[i] != 0, p[i] * (u - dot[i]));
        }
      } else {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) {
          const C slope = plain ? C(1) : p[i] * (1 - p[i]);
          result[i] = only(t.counted(i), slope * measure.of_prediction(of, p[i], t(i)));
        }
      }
      tile.store(views.grad_inputs, c, result);
    }
    if (!Classes && views.grad_targets) {
      C* __restrict const result = tile.result(views.grad_targets, c);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) result[i] = only(t.counted(i), measure.of_target(of, p[i], t(i)));
      tile.store(views.grad_targets, c, result);
    }
  }
}

// The derivatives of all that along the directions: dot and the gradients.
template <class C, bool Classes>
[[gnu::noinline]] void add_up_moved_channels(const Problem& problem, Tile<C>& tile, const Sums<C>* g) {
  const Measure<C> measure{problem.squared};
  const int64_t count = tile.count();
  C* __restrict const moved = tile.moved_dot();
  std::fill(moved, moved + count, C(0));
  for (int64_t c = 0; c < problem.channels; ++c) {
    const TargetLine<C, Classes> t = target_line<C, Classes>(tile, c);
    const PredictionLine<C> p = tile.p(c);
    const C *const dp = tile.dp(c), *const dt = tile.target_directions(c);
    const Sums<C> of = g[c];
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) {
      moved[i] += only(t.counted(i), dp[i] * measure.of_prediction(of, p[i], t(i)) +
                                         p[i] * measure.of_prediction_moved(of, dp[i], dt[i]));
    }
  }
}

template <class C, bool Classes>
[[gnu::noinline]] void write_moved_gradients(const Problem& problem, Tile<C>& tile, const Sums<C>* g,
                                             const Views<C>& views) {
  const Measure<C> measure{problem.squared};
  const int64_t count = tile.count();
  const bool softmax = problem.activation == Activation::softmax, plain = problem.activation == Activation::none;
  const C *const dot = tile.dot(), *const moved_dot = tile.moved_dot(), *const any = tile.counted();
  for (int64_t c = 0; c < problem.channels; ++c) {
    const TargetLine<C, Classes> t = target_line<C, Classes>(tile, c);
    const PredictionLine<C> p = tile.p(c);
    const C *const dp = tile.dp(c), *const dt = tile.target_directions(c);
    const Sums<C> of = g[c];
    if (views.grad_inputs) {
      C* __restrict const result = tile.result(views.grad_inputs, c);
      if (softmax) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) {
          const C u = only(t.counted(i), measure.of_prediction(of, p[i], t(i)));
          const C du = only(t.counted(i), measure.of_prediction_moved(of, dp[i], dt[i]));
          result[i] = only(Classes ? t.counted(i) : any[i] != 0, dp[i] * (u - dot[i]) + p[i] * (du - moved_dot[i]));
        }
      } else {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) {
          const C u = measure.of_prediction(of, p[i], t(i)), du = measure.of_prediction_moved(of, dp[i], dt[i]);
          const C slope = plain ? C(1) : p[i] * (1 - p[i]), bend = plain ? C(0) : (1 - 2 * p[i]) * dp[i];
          result[i] = only(t.counted(i), bend * u + slope * du);
        }
      }
      tile.store(views.grad_inputs, c, result);
    }
    if (!Classes && views.grad_targets) {
      C* __restrict const result = tile.result(views.grad_targets, c);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) result[i] = only(t.counted(i), measure.of_target_moved(of, dp[i], dt[i]));
      tile.store(views.grad_targets, c, result);
    }
  }
}

// ---- loops over all tiles -------------------------------------------------------------------------------------------

// work(tile, n, totals) for every tile of every sample n, chunk by chunk; `sums`, if there is any, gets the totals.
template <class C, class Work>
void for_each_tile(const Problem& problem, const Views<C>& views, bool second, C* sums, const Work& work) {
  const Plan plan(problem, sizeof(C));
  const int64_t numbers = kSums * problem.channels;
  std::vector<double> partial(static_cast<size_t>(sums ? problem.batch * plan.chunks * numbers : 0));
  std::atomic<bool> wrong{false};
  parallel_for(problem.batch * plan.chunks, plan.tiles_per_chunk * plan.width * problem.channels,
               [&](int64_t begin, int64_t end) {
                 Tile<C> tile(problem, plan, views, second);
                 for (int64_t item = begin; item < end; ++item) {
                   const int64_t n = item / plan.chunks, first = item % plan.chunks * plan.tiles_per_chunk;
                   double* const totals = sums ? partial.data() + item * numbers : nullptr;
                   for (int64_t k = first; k < std::min(plan.tiles, first + plan.tiles_per_chunk); ++k) {
                     if (!tile.move_to(n, k)) wrong = true;
                     work(tile, n, totals);
                   }
                 }
               });
  HANDGRAD_CHECK(!wrong, kOp, ": targets must be classes, at least 0 and below the ", problem.channels,
                 " channels of inputs, or ignore_index; got others");
  for (int64_t i = 0; sums && i < problem.batch * numbers; ++i) {
    double total = 0;
    for (int64_t k = 0; k < plan.chunks; ++k) total += partial[(i / numbers * plan.chunks + k) * numbers + i % numbers];
    sums[i] = static_cast<C>(total);
  }
}

template <class Body>
void dispatch(const Problem& problem, const Tensors& tensors, const Body& body) {
  dispatch_compute(kOp, tensors.inputs.tensor.scalar_type(),
                   [&](auto tag) { dispatch_bool(problem.classes, [&](auto classes) { body(tag, classes); }); });
}

struct TilesOnCpu {
  static void sums(const Problem& problem, const Tensors& tensors, const Tensor& result) {
    dispatch(problem, tensors, [&]<class C, bool Classes>(TypeTag<C>, std::bool_constant<Classes>) {
      const Views<C> views(tensors);
      for_each_tile<C>(
          problem, views, false, result.mutable_data_ptr<C>(),
          [&](Tile<C>& tile, int64_t, double* totals) { add_sums<C, Classes, false>(problem, tile, totals); });
    });
  }

  static void gradients(const Problem& problem, const Tensors& tensors, const Tensor& grad_output) {
    dispatch(problem, tensors, [&]<class C, bool Classes>(TypeTag<C>, std::bool_constant<Classes>) {
      const Views<C> views(tensors);
      const bool mixes = problem.activation == Activation::softmax && views.grad_inputs;
      const Sums<C>* const g = reinterpret_cast<const Sums<C>*>(grad_output.const_data_ptr<C>());
      for_each_tile<C>(problem, views, false, nullptr, [&](Tile<C>& tile, int64_t n, double*) {
        if (mixes) add_up_channels<C, Classes>(problem, tile, g + n * problem.channels);
        write_gradients<C, Classes>(problem, tile, g + n * problem.channels, views);
      });
    });
  }

  static void second(const Problem& problem, const Tensors& tensors, const Tensor& grad_output, const Tensor* sums) {
    dispatch(problem, tensors, [&]<class C, bool Classes>(TypeTag<C>, std::bool_constant<Classes>) {
      const Views<C> views(tensors);
      const bool mixes = problem.activation == Activation::softmax && views.grad_inputs;
      const Sums<C>* const g = reinterpret_cast<const Sums<C>*>(grad_output.const_data_ptr<C>());
      C* const moved = sums ? sums->mutable_data_ptr<C>() : nullptr;
      for_each_tile<C>(problem, views, true, moved, [&](Tile<C>& tile, int64_t n, double* totals) {
        const Sums<C>* const of = g + n * problem.channels;
        if (totals) add_sums<C, Classes, true>(problem, tile, totals);
        if (mixes) {
          add_up_channels<C, Classes>(problem, tile, of);
          add_up_moved_channels<C, Classes>(problem, tile, of);
        }
        write_moved_gradients<C, Classes>(problem, tile, of, views);
      });
    });
  }
};

}  // namespace
}  // namespace handgrad::overlap_sums

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  using Of = handgrad::overlap_sums::Entries<handgrad::overlap_sums::TilesOnCpu>;
  handgrad::implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, "overlap_sums");
}
