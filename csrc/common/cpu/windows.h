// Windows of a filter on the CPU: the work of one thread on a tile (math/window_passes.h), and the walk over all tiles.
#pragma once

#include "abi/check.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/window_filters.h"
#include "math/window_passes.h"

namespace handgrad {

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
  HANDGRAD_MATH void for_box(const WindowBuffer& box, const Body& body) const {
    for (int32_t s = 0; s < box.extent[0]; ++s) {
      for (int32_t r = 0; r < box.extent[1]; ++r) {
        const int32_t row = box.index(s, r, 0), count = box.extent[2];
        HANDGRAD_SIMD
        for (int32_t w = 0; w < count; ++w) body(s, r, w, row + w);
      }
    }
  }

  [[gnu::noinline]] void load(const StoredView<const C, 5>& view, int64_t n, int64_t c, const WindowAxis* axes,
                              const int32_t* origin, const WindowBuffer& box, C moved, C* to) const {
    for (int32_t s = 0; s < box.extent[0]; ++s) {
      for (int32_t r = 0; r < box.extent[1]; ++r, to += box.pitch) {
        const int32_t slice = axes[0].pixel(origin[0] + s), line = axes[1].pixel(origin[1] + r);
        load_row(view, n, c, slice, line, axes[2], origin[2], box.extent[2], to);
        HANDGRAD_SIMD
        for (int32_t w = 0; w < box.extent[2]; ++w) to[w] -= moved;
      }
    }
  }

  [[gnu::noinline]] void store(const C* from, const WindowBuffer& box, const StoredView<C, 5>& view, int64_t n,
                               int64_t c, const int32_t* first, const int32_t* sizes) const {
    const int32_t count = std::min(box.extent[2], sizes[2] - first[2]);
    for (int32_t s = 0; s < box.extent[0]; ++s) {
      for (int32_t r = 0; r < box.extent[1]; ++r) {
        if (first[0] + s >= sizes[0] || first[1] + r >= sizes[1] || count <= 0) continue;
        store_run(from + box.index(s, r, 0), count, view.at(n, c, first[0] + s, first[1] + r, first[2]),
                  view.strides[4]);
      }
    }
  }

  // The averages of a plane's windows: across rows first, four rows of windows at a time, for all averages at once and
  // without storing what is averaged; then along them, while they are in the first-level cache.
  static constexpr bool kAveragesPlanes = true;
  template <int Averages>
  [[gnu::noinline]] void average(const C* u, const C* v, const WindowBuffer& patch, const WindowBuffer& inner,
                                 C* average, int32_t pitch) {
    const int32_t taps = patch.extent[1] - inner.extent[1] + 1, row_pitch = patch.pitch;
    rows_.resize(static_cast<size_t>(Averages * detail::kRowsAtOnce * row_pitch + detail::kWindowSpare));
    C* const rows = rows_.data();
    for (int32_t r = 0; r < inner.extent[1]; r += detail::kRowsAtOnce) {
      const int32_t count = std::min(detail::kRowsAtOnce, inner.extent[1] - r);
      const detail::AveragedRows<C> from{u + r * row_pitch, v + r * row_pitch, row_pitch, patch.extent[2], weights_};
      if (count == detail::kRowsAtOnce && taps >= detail::kRowsAtOnce) {
        from.template across<Averages, detail::kRowsAtOnce>(taps, rows);
      } else {
        for (int32_t i = 0; i < count; ++i) from.below(i).template across<Averages, 1>(taps, rows + i * row_pitch);
      }
      for (int k = 0; k < Averages; ++k) {
        const C* const across = rows + k * detail::kRowsAtOnce * row_pitch;
        C* const to = average + k * pitch + r * inner.pitch;
        if (count == detail::kRowsAtOnce) {
          detail::filter_along_four_rows(across, row_pitch, weights_, taps, inner.extent[2], to, inner.pitch);
          continue;
        }
        for (int32_t i = 0; i < count; ++i) {
          detail::filter_row(across + i * row_pitch, 1, weights_, taps, inner.extent[2], to + i * inner.pitch);
        }
      }
    }
  }

  // Rows in order, and four at a time: what is written beyond the end of one is the beginning of the next.
  [[gnu::noinline]] void filter(const C* from, const WindowBuffer& box, int axis, const WindowBuffer& result,
                                C* to) const {
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
  ScratchVector<C> rows_;
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

  // pass(passes) for every tile; `means`, if there are any, get for each plane the sum over tiles of what it leaves in
  // `work`.
  template <class C, class Formula, class Pass>
  static void run(const std::string&, const Tensor&, const WindowPlan& plan, const WindowOperands<C>& operands,
                  const Formula& formula, const Pass& pass, const WindowMeans<C>& means) {
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
    const int64_t tiles = plan.tiles_of_plane();
    for (int64_t plane = 0; plane < plan.items / std::max<int64_t>(1, tiles); ++plane) {
      double all = 0;
      for (int64_t k = 0; k < tiles; ++k) all += partial[static_cast<size_t>(plane * tiles + k)];
      means.first[plane * means.step] = static_cast<C>(all * means.scale);
    }
  }

 private:
  template <class C>
  [[gnu::noinline]] static double sum(const C* values, const WindowBuffer& box) {
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
