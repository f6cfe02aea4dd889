// Windows of a filter on the CPU: the work of one thread on a tile (math/window_passes.h), and the walk over all tiles.
//
// Every filter is a sum of rows, a step apart: along a row the step is one number, across rows it is a row. So all
// loops run along rows and vectorise, and a run of sums stays in registers while the taps are walked.
#pragma once

#include "abi/check.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "math/window_passes.h"

namespace handgrad {

namespace detail {

// What rows may be read and written beyond their ends, so that no run of sums need be cut short; and where they begin.
inline constexpr int32_t kWindowSpare = 64, kWindowAlignment = 16;

template <int Lanes, class C>
HANDGRAD_MATH void add_tap(C weight, const C* from, C (&total)[Lanes]) {
  HANDGRAD_SIMD
  for (int lane = 0; lane < Lanes; ++lane) total[lane] += weight * from[lane];
}
template <int Lanes, class C>
HANDGRAD_MATH void keep(const C (&total)[Lanes], C* to) {
  HANDGRAD_SIMD
  for (int lane = 0; lane < Lanes; ++lane) to[lane] = total[lane];
}

template <int Lanes, class C>
HANDGRAD_MATH void sum_taps(const C* from, int64_t step, const C* weights, int32_t taps, C* __restrict to) {
  C total[Lanes] = {};
  for (int32_t j = 0; j < taps; ++j) add_tap<Lanes>(weights[j], from + j * step, total);
  keep<Lanes>(total, to);
}

// Four results, a step apart as their taps are, for which most rows are loaded once. The order of each sum is the same.
template <int Lanes, class C>
HANDGRAD_MATH void sum_taps_of_four(const C* from, int64_t step, const C* weights, int32_t taps, C* __restrict to,
                                    int64_t to_step) {
  C a[Lanes] = {}, b[Lanes] = {}, c[Lanes] = {}, d[Lanes] = {};
  add_tap<Lanes>(weights[0], from, a);
  add_tap<Lanes>(weights[1], from + step, a);
  add_tap<Lanes>(weights[0], from + step, b);
  add_tap<Lanes>(weights[2], from + 2 * step, a);
  add_tap<Lanes>(weights[1], from + 2 * step, b);
  add_tap<Lanes>(weights[0], from + 2 * step, c);
  const C* row = from + 3 * step;
  for (int32_t j = 3; j < taps; ++j, row += step) {
    const C first = weights[j], second = weights[j - 1], third = weights[j - 2], fourth = weights[j - 3];
    HANDGRAD_SIMD
    for (int lane = 0; lane < Lanes; ++lane) {
      const C pixel = row[lane];
      a[lane] += first * pixel;
      b[lane] += second * pixel;
      c[lane] += third * pixel;
      d[lane] += fourth * pixel;
    }
  }
  add_tap<Lanes>(weights[taps - 1], row, b);
  add_tap<Lanes>(weights[taps - 2], row, c);
  add_tap<Lanes>(weights[taps - 3], row, d);
  add_tap<Lanes>(weights[taps - 1], row + step, c);
  add_tap<Lanes>(weights[taps - 2], row + step, d);
  add_tap<Lanes>(weights[taps - 1], row + 2 * step, d);
  keep<Lanes>(a, to);
  keep<Lanes>(b, to + to_step);
  keep<Lanes>(c, to + 2 * to_step);
  keep<Lanes>(d, to + 3 * to_step);
}

// to[i] = the sum of weights[j] * from[i + j * step]. Compiled apart, or the compiler forgets that the sums can be held
// in registers.
template <class C>
[[gnu::noinline]] void filter_row(const C* from, int64_t step, const C* weights, int32_t taps, int32_t count,
                                  C* __restrict to) {
  constexpr int kLong = 256 / sizeof(C), kShort = 64 / sizeof(C);
  int32_t i = 0;
  for (; i + kLong <= count; i += kLong) sum_taps<kLong>(from + i, step, weights, taps, to + i);
  for (; i < count; i += kShort) sum_taps<kShort>(from + i, step, weights, taps, to + i);
}
template <class C>
[[gnu::noinline]] void filter_four_rows(const C* from, int64_t step, const C* weights, int32_t taps, int32_t count,
                                        C* __restrict to, int64_t to_step) {
  constexpr int kLong = 128 / sizeof(C), kShort = 64 / sizeof(C);
  int32_t i = 0;
  for (; i + kLong <= count; i += kLong) sum_taps_of_four<kLong>(from + i, step, weights, taps, to + i, to_step);
  for (; i < count; i += kShort) sum_taps_of_four<kShort>(from + i, step, weights, taps, to + i, to_step);
}

// Four rows, pitch apart, each as filter_row has it: four sums that do not wait for each other.
template <int Lanes, class C>
HANDGRAD_MATH void sum_taps_of_rows(const C* from, int64_t pitch, const C* weights, int32_t taps, C* __restrict to,
                                    int64_t to_pitch) {
  C a[Lanes] = {}, b[Lanes] = {}, c[Lanes] = {}, d[Lanes] = {};
  for (int32_t j = 0; j < taps; ++j) {
    const C weight = weights[j];
    const C* const pixel = from + j;
    HANDGRAD_SIMD
    for (int lane = 0; lane < Lanes; ++lane) {
      a[lane] += weight * pixel[lane];
      b[lane] += weight * pixel[pitch + lane];
      c[lane] += weight * pixel[2 * pitch + lane];
      d[lane] += weight * pixel[3 * pitch + lane];
    }
  }
  keep<Lanes>(a, to);
  keep<Lanes>(b, to + to_pitch);
  keep<Lanes>(c, to + 2 * to_pitch);
  keep<Lanes>(d, to + 3 * to_pitch);
}
template <class C>
[[gnu::noinline]] void filter_along_four_rows(const C* from, int64_t pitch, const C* weights, int32_t taps,
                                              int32_t count, C* __restrict to, int64_t to_pitch) {
  constexpr int kLong = 128 / sizeof(C), kShort = 64 / sizeof(C);
  int32_t i = 0;
  for (; i + kLong <= count; i += kLong) sum_taps_of_rows<kLong>(from + i, pitch, weights, taps, to + i, to_pitch);
  for (; i < count; i += kShort) sum_taps_of_rows<kShort>(from + i, pitch, weights, taps, to + i, to_pitch);
}

}  // namespace detail

template <class C>
class WindowThread {
 public:
  explicit WindowThread(const C* weights) : weights_(weights) {}

  const C* weights() const { return weights_; }

  C pixel(const StoredView<const C, 5>& view, int64_t n, int64_t c, const int32_t (&i)[3]) const {
    C value;
    load_run(view.at(n, c, i[0], i[1], i[2]), 1, 1, &value);
    return value;
  }

  template <class Body>
  HANDGRAD_MATH void for_box(const Box& box, const Body& body) const {
    for (int32_t s = 0; s < box.extent[0]; ++s) {
      for (int32_t r = 0; r < box.extent[1]; ++r) {
        const int32_t row = box.index(s, r, 0), count = box.extent[2];
        HANDGRAD_SIMD
        for (int32_t w = 0; w < count; ++w) body(s, r, w, row + w);
      }
    }
  }

  [[gnu::noinline]] void load(const StoredView<const C, 5>& view, int64_t n, int64_t c, const WindowAxis* axes,
                              const int32_t* origin, const Box& box, C moved, C* to) const {
    for (int32_t s = 0; s < box.extent[0]; ++s) {
      for (int32_t r = 0; r < box.extent[1]; ++r, to += box.pitch) {
        const int32_t slice = axes[0].pixel(origin[0] + s), line = axes[1].pixel(origin[1] + r);
        load_row(view, n, c, slice, line, axes[2], origin[2], box.extent[2], to);
        HANDGRAD_SIMD
        for (int32_t w = 0; w < box.extent[2]; ++w) to[w] -= moved;
      }
    }
  }

  [[gnu::noinline]] void store(const C* from, const Box& box, const StoredView<C, 5>& view, int64_t n, int64_t c,
                               const int32_t* first, const int32_t* sizes) const {
    const int32_t count = std::min(box.extent[2], sizes[2] - first[2]);
    for (int32_t s = 0; s < box.extent[0]; ++s) {
      for (int32_t r = 0; r < box.extent[1]; ++r) {
        if (first[0] + s >= sizes[0] || first[1] + r >= sizes[1] || count <= 0) continue;
        store_run(from + box.index(s, r, 0), count, view.at(n, c, first[0] + s, first[1] + r, first[2]),
                  view.strides[4]);
      }
    }
  }

  // Rows in order, and four at a time: what is written beyond the end of one is the beginning of the next.
  [[gnu::noinline]] void filter(const C* from, const Box& box, int axis, const Box& result, C* to) const {
    const int32_t taps = box.extent[axis] - result.extent[axis] + 1, count = result.extent[2];
    const int32_t step = box.step(axis), to_step = result.step(axis);
    if (axis == 2) {
      const int32_t rows = result.extent[0] * result.extent[1];
      int32_t i = 0;
      for (; i + 4 <= rows; i += 4) {
        detail::filter_along_four_rows(from + i * box.pitch, box.pitch, weights_, taps, count, to + i * result.pitch,
                                       result.pitch);
      }
      for (; i < rows; ++i) {
        detail::filter_row(from + i * box.pitch, 1, weights_, taps, count, to + i * result.pitch);
      }
      return;
    }
    // Lines of rows along the axis.
    const int32_t lines = result.extent[1 - axis], line_step = box.step(1 - axis), to_line = result.step(1 - axis);
    for (int32_t line = 0; line < lines; ++line) {
      const C* const first = from + line * line_step;
      C* const to_first = to + line * to_line;
      int32_t i = 0;
      for (; taps >= 4 && i + 4 <= result.extent[axis]; i += 4) {
        detail::filter_four_rows(first + i * step, step, weights_, taps, count, to_first + i * to_step, to_step);
      }
      for (; i < result.extent[axis]; ++i) {
        detail::filter_row(first + i * step, step, weights_, taps, count, to_first + i * to_step);
      }
    }
  }

 private:
  // The pixels of a row; 0 where there are none.
  void load_row(const StoredView<const C, 5>& view, int64_t n, int64_t c, int32_t slice, int32_t line,
                const WindowAxis& axis, int32_t origin, int32_t count, C* to) const {
    const int32_t begin = std::clamp(axis.padding - origin, 0, count);
    const int32_t end = std::clamp(axis.padding + axis.size - origin, begin, count);
    const bool there = view && slice >= 0 && line >= 0;
    if (!there) {
      std::fill(to, to + count, C(0));
      return;
    }
    const auto beyond = [&](int32_t w) {
      const int32_t i = axis.pixel(origin + w);
      to[w] = 0;
      if (i >= 0) load_run(view.at(n, c, slice, line, i), 1, 1, to + w);
    };
    if (end > begin) {
      load_run(view.at(n, c, slice, line, origin + begin - axis.padding), view.strides[4], end - begin, to + begin);
    }
    for (int32_t w = 0; w < begin; ++w) beyond(w);
    for (int32_t w = end; w < count; ++w) beyond(w);
  }

  const C* weights_;
};

// ---- the walk over all tiles ----------------------------------------------------------------------------------------

struct WindowsOnCpu {
  // Tiles that the second-level cache holds with all that is made of them.
  static constexpr int32_t kPlane[3] = {1, 64, 256}, kVolume[3] = {24, 24, 64};

  static WindowPlan plan(const WindowAxes& axes, double sigma, int64_t batch, int64_t channels, bool gradient,
                         int32_t images, int32_t averages, size_t) {
    return WindowPlan(axes, sigma, batch, channels, axes.count == 2 ? kPlane : kVolume, gradient, images, averages,
                      detail::kWindowAlignment, detail::kWindowSpare);
  }

  // pass(passes) for every tile; `means`, if there are any, gets for each plane the sum over tiles of what it leaves in
  // `work`, times `scale`.
  template <class C, class Formula, class Pass>
  static void run(const std::string&, const Tensor&, const WindowPlan& plan, const WindowOperands<C>& operands,
                  const Formula& formula, const Pass& pass, const Tensor* means, double scale) {
    std::vector<double> partial(static_cast<size_t>(means ? plan.items : 0));
    std::vector<C> weights(static_cast<size_t>(plan.taps));
    double total = 0;
    for (int32_t j = 0; j < plan.taps; ++j) total += window_weight(plan.taps, plan.sigma, j);
    for (int32_t j = 0; j < plan.taps; ++j) {
      weights[static_cast<size_t>(j)] = static_cast<C>(window_weight(plan.taps, plan.sigma, j) / total);
    }
    parallel_for(plan.items, int64_t{plan.patch.count()} * plan.taps, [&](int64_t begin, int64_t end) {
      ScratchVector<C> scratch(static_cast<size_t>(plan.scratch()));
      WindowThread<C> thread(weights.data());
      WindowPasses<WindowThread<C>, C, Formula> passes(plan, operands, formula, thread, scratch.data());
      for (int64_t item = begin; item < end; ++item) {
        passes.move_to(item);
        pass(passes);
        if (means) partial[static_cast<size_t>(item)] = sum(passes.work, plan.inner);
      }
    });
    if (!means) return;
    C* const results = means->mutable_data_ptr<C>();
    const int64_t tiles = plan.tiles_of_plane();
    for (int64_t plane = 0; plane < plan.items / std::max<int64_t>(1, tiles); ++plane) {
      double all = 0;
      for (int64_t k = 0; k < tiles; ++k) all += partial[static_cast<size_t>(plane * tiles + k)];
      results[plane] = static_cast<C>(all * scale);
    }
  }

 private:
  template <class C>
  [[gnu::noinline]] static double sum(const C* values, const Box& box) {
    constexpr int kLanes = 16;
    double total[kLanes] = {};
    for (int32_t row = 0; row < box.extent[0] * box.extent[1]; ++row, values += box.pitch) {
      int32_t i = 0;
      for (; i + kLanes <= box.extent[2]; i += kLanes) {
        HANDGRAD_SIMD
        for (int lane = 0; lane < kLanes; ++lane) total[lane] += static_cast<double>(values[i + lane]);
      }
      for (; i < box.extent[2]; ++i) total[0] += static_cast<double>(values[i]);
    }
    double all = 0;
    for (const double lane : total) all += lane;
    return all;
  }
};

}  // namespace handgrad
