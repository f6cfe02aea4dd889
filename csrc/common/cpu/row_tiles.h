// Rows of classes in tiles, as cpu/rows.h walks over them: kRowLanes numbers side by side, in as many steps as it
// takes.
//
// Where positions lie densely in memory, a lane is a position and a step a class. Where classes do, a tile is one row
// and its lanes are classes, kRowLanes at a step; what is summed or compared along steps is then combined over lanes,
// and every lane gets the result. So one loop serves both, and is always vectorised.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/parallel.h"
#include "cpu/row_operands.h"
#include "cpu/scratch.h"
#include "math/softmax_row.h"

namespace handgrad {

inline constexpr int64_t kRowLanes = 32;
// Bytes of one of the arrays that a block of rows is worked on in.
inline constexpr int64_t kRowBlockBytes = 24 * 1024;

// As wide as C, so that a loop over both is vectorised.
template <class C>
using LaneIndex = std::conditional_t<sizeof(C) == sizeof(int32_t), int32_t, int64_t>;

// How the work is cut: blocks of neighbouring positions of a sample, all classes of them.
struct RowPlan {
  bool along_classes;
  int64_t classes, positions, width, blocks_per_sample, blocks;
  // Of a tile: how many steps, and how far apart they are.
  int64_t steps, pitch;

  template <class C>
  explicit RowPlan(const RowViews<C>& rows) : classes(rows.classes), positions(rows.positions) {
    // A tile that is mostly empty costs more than reading classes one by one.
    along_classes = rows.classes_innermost() && classes >= kRowLanes / 2;
    const int64_t fitting = kRowBlockBytes / static_cast<int64_t>(sizeof(C)) / std::max<int64_t>(1, classes);
    width = along_classes ? std::max<int64_t>(1, fitting) : std::max(kRowLanes, fitting / kRowLanes * kRowLanes);
    width = std::max<int64_t>(1, std::min(width, positions));
    pitch = along_classes ? kRowLanes : (width + kRowLanes - 1) / kRowLanes * kRowLanes;
    steps = along_classes ? (classes + kRowLanes - 1) / kRowLanes : classes;
    blocks_per_sample = (positions + width - 1) / width;
    blocks = rows.batch * blocks_per_sample;
  }

  // Elements of one array.
  int64_t elements() const { return steps * pitch; }
};

// Neighbouring rows that are in the arrays at once: all of a block, or one.
struct RowRun {
  int64_t sample, first, count;
};

// The lanes of a tile, and what each knows of its row.
template <class C>
struct alignas(64) RowTile {
  using Index = LaneIndex<C>;

  const RowPlan& plan;
  int64_t first = 0, rows = 0;  // of a run: the tile's first row, and how many rows it has
  // The largest logit; the step that it is at (-1: in another lane); its class, by row.
  C largest[kRowLanes];
  Index peak_step[kRowLanes], peak[kRowLanes];
  C rest[kRowLanes], log_sum[kRowLanes], inverse[kRowLanes];

  explicit RowTile(const RowPlan& plan) : plan(plan) {}

  // Where the tile's first step begins in an array, and where a class of a row is from there.
  int64_t offset() const { return plan.along_classes ? 0 : first; }
  int64_t element(int64_t c, int64_t row) const { return plan.along_classes ? c : c * plan.pitch + row; }
  SoftmaxRow<C> softmax(int64_t lane) const { return {rest[lane], log_sum[lane], inverse[lane]}; }

  // Every lane of a row gets the sum over them, in an order that is always the same.
  void combine(C* lanes) const {
    if (!plan.along_classes) return;
    C total = 0;
    for (int64_t lane = 0; lane < kRowLanes; ++lane) total += lanes[lane];
    std::fill(lanes, lanes + kRowLanes, total);
  }

  void find_peaks(const C* __restrict x) {
    for (int64_t lane = 0; lane < kRowLanes; ++lane) {
      largest[lane] = -std::numeric_limits<C>::infinity();
      peak_step[lane] = 0;
    }
    for (int64_t step = 0; step < plan.steps; ++step, x += plan.pitch) {
      const Index here = static_cast<Index>(step);
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const bool larger = x[lane] > largest[lane];
        largest[lane] = larger ? x[lane] : largest[lane];
        peak_step[lane] = larger ? here : peak_step[lane];
      }
    }
    if (plan.along_classes) {
      const int64_t best = std::max_element(largest, largest + kRowLanes) - largest;
      const Index step = peak_step[best];
      peak[0] = static_cast<Index>(step * kRowLanes + best);
      std::fill(largest, largest + kRowLanes, C(largest[best]));
      std::fill(peak_step, peak_step + kRowLanes, Index(-1));
      peak_step[best] = step;
    } else {
      std::copy(peak_step, peak_step + kRowLanes, peak);
    }
  }

  // e = exp(x - largest), and what is made of their sum. A row without a finite largest logit is NaN.
  void take_exponentials(const C* __restrict x, C* __restrict e) {
    for (int64_t lane = 0; lane < kRowLanes; ++lane) rest[lane] = largest[lane] - largest[lane];
    for (int64_t step = 0; step < plan.steps; ++step, x += plan.pitch, e += plan.pitch) {
      const Index here = static_cast<Index>(step);
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const C power = exp_decay(largest[lane] - x[lane]);
        e[lane] = power;
        rest[lane] += here == peak_step[lane] ? C(0) : power;
      }
    }
    combine(rest);
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < kRowLanes; ++lane) {
      const SoftmaxRow<C> row(rest[lane]);
      log_sum[lane] = row.log_sum;
      inverse[lane] = row.inverse;
    }
  }

  // The sum of the array weighted by the probabilities, after the peak's own has been taken away from all: differences
  // to the peak are exact where it has nearly all of the probability.
  void centre(const C* __restrict e, C* __restrict v, C* mean) const {
    alignas(64) C at_peak[kRowLanes] = {};
    for (int64_t row = 0; row < rows; ++row) at_peak[row] = v[element(peak[row], row)];
    if (plan.along_classes) std::fill(at_peak, at_peak + kRowLanes, C(at_peak[0]));
    std::fill(mean, mean + kRowLanes, C(0));
    for (int64_t step = 0; step < plan.steps; ++step, e += plan.pitch, v += plan.pitch) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        v[lane] -= at_peak[lane];
        mean[lane] += e[lane] * v[lane];
      }
    }
    combine(mean);
    for (int64_t lane = 0; lane < kRowLanes; ++lane) mean[lane] *= inverse[lane];
  }
};

// A sum over all classes of a row but the peak, and the peak's own.
template <class C>
struct alignas(64) SumAroundPeak {
  C others[kRowLanes] = {}, peak[kRowLanes] = {};

  void combine(const RowTile<C>& tile) {
    tile.combine(others);
    tile.combine(peak);
  }
};

// ---- between memory and the arrays ----------------------------------------------------------------------------------

// What is beyond the rows, or beyond the classes of a row, is `padding`.
template <class C>
void load_rows(const RowPlan& plan, const StoredView<const C, 3>& from, const RowRun& run, C padding, C* to) {
  dispatch_storage<C>(from.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* data = from.first.template as<T>() + run.sample * from.strides[0] + run.first * from.strides[2];
    if (plan.along_classes) {
      load_run(data, from.strides[1], plan.classes, to);
      std::fill(to + plan.classes, to + plan.elements(), padding);
      return;
    }
    for (int64_t c = 0; c < plan.classes; ++c, to += plan.pitch) {
      load_run(data + c * from.strides[1], from.strides[2], run.count, to);
      std::fill(to + run.count, to + plan.pitch, padding);
    }
  });
}

template <class C>
void store_rows(const RowPlan& plan, const C* from, const RowRun& run, const StoredView<C, 3>& to) {
  dispatch_storage<C>(to.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* data = to.first.template as<T>() + run.sample * to.strides[0] + run.first * to.strides[2];
    if (plan.along_classes) {
      store_run(from, plan.classes, data, to.strides[1]);
      return;
    }
    for (int64_t c = 0; c < plan.classes; ++c, from += plan.pitch) {
      store_run(from, run.count, data + c * to.strides[1], to.strides[2]);
    }
  });
}

// x = weight (added + factor x) for each class of all rows.
template <class C>
void weigh_rows(const RowPlan& plan, const View<const C, 1>& weight, C added, C factor, C* x) {
  for (int64_t step = 0; step < plan.steps; ++step, x += plan.pitch) {
    if (!plan.along_classes) {
      const C scale = weight ? *weight.at(step) : C(1);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < plan.pitch; ++i) x[i] = scale * (added + factor * x[i]);
      continue;
    }
    const int64_t begin = step * kRowLanes, count = std::min(kRowLanes, plan.classes - begin);
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) x[i] = added + factor * x[i];
    for (int64_t i = 0; weight && i < count; ++i) x[i] *= *weight.at(begin + i);
  }
}

}  // namespace handgrad
