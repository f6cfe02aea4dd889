// Rows of classes in tiles, as cpu/rows.h walks over them: kRowLanes numbers side by side, in as many steps as it
// takes.
//
// Where positions lie densely in memory, a lane is a position and a step a class. Where classes do, a tile is one row
// and its lanes are classes, kRowLanes at a step; what is summed or compared along steps is then combined over lanes,
// and every lane gets the result. So one loop serves both, and is always vectorised.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/row_operands.h"
#include "cpu/scratch.h"
#include "math/softmax_row.h"

namespace handgrad {

inline constexpr int64_t kRowLanes = 32;
// Bytes of one of the arrays that a block of rows is worked on in.
inline constexpr int64_t kRowBlockBytes = 24 * 1024;

// Numbers that the sums of all parts of a matrix' gradient may take, but for those of one.
inline constexpr int64_t kRowMatrixNumbers = 1 << 22;

// As wide as C, so that a loop over both is vectorised.
template <class C>
using LaneIndex = std::conditional_t<sizeof(C) == sizeof(int32_t), int32_t, int64_t>;

// How the work is cut: blocks of neighbouring positions of a sample, all classes of them.
struct RowPlan {
  bool along_classes;
  int64_t classes, positions, width, blocks_per_sample, blocks;
  // What is summed for a matrix is summed in as many parts of the blocks, whatever the number of threads.
  int64_t parts;
  // Of a tile: how many steps, and how far apart they are.
  int64_t steps, pitch;

  // Classes along lanes, or positions.
  RowPlan(int64_t batch, int64_t classes, int64_t positions, bool along_classes, int64_t element_bytes)
      : along_classes(along_classes), classes(classes), positions(positions) {
    const int64_t fitting = kRowBlockBytes / element_bytes / std::max<int64_t>(1, classes);
    width = along_classes ? std::max<int64_t>(1, fitting) : std::max(kRowLanes, fitting / kRowLanes * kRowLanes);
    width = std::max<int64_t>(1, std::min(width, positions));
    pitch = along_classes ? kRowLanes : (width + kRowLanes - 1) / kRowLanes * kRowLanes;
    steps = along_classes ? (classes + kRowLanes - 1) / kRowLanes : classes;
    blocks_per_sample = (positions + width - 1) / width;
    blocks = batch * blocks_per_sample;
    parts = blocks;
  }

  // A tile that is mostly empty costs more than reading classes one by one.
  template <class C>
  explicit RowPlan(const RowViews<C>& rows)
      : RowPlan(rows.batch, rows.classes, rows.positions, rows.classes_innermost() && rows.classes >= 4 * kRowLanes,
                static_cast<int64_t>(sizeof(C))) {
    if (!rows.grad_matrix) return;
    const int64_t fitting_matrices = kRowMatrixNumbers / (rows.classes * rows.classes);
    parts = std::min(blocks, std::clamp<int64_t>(fitting_matrices, 1, 64));
  }

  // From step to step, said so that the compiler sees whole vectors.
  int64_t stride() const { return pitch & -kRowLanes; }
  // Elements of one array.
  int64_t elements() const { return steps * pitch; }
};

// Neighbouring rows that are in the arrays at once: all of a block, or one.
struct RowRun {
  int64_t sample, first, count, part;
};

// b where either is NaN.
template <class C>
HANDGRAD_MATH C larger_of(C a, C b) {
  return a > b ? a : b;
}

// All lanes in one number, by a tree: half of them with the other half, and so on.
template <class C, class Fold>
C folded(const C* lanes, const Fold& fold) {
  alignas(kCacheLine) C half[kRowLanes / 2];
  HANDGRAD_SIMD
  for (int64_t k = 0; k < kRowLanes / 2; ++k) half[k] = fold(lanes[k], lanes[k + kRowLanes / 2]);
  for (int64_t width = kRowLanes / 4; width > 0; width /= 2) {
    for (int64_t k = 0; k < width; ++k) half[k] = fold(half[k], half[k + width]);
  }
  return half[0];
}

// The lanes of a tile, and what each knows of its row.
template <class C>
struct RowTile {
  using Index = LaneIndex<C>;

  const RowPlan& plan;
  int64_t first = 0, rows = 0;  // of a run: the tile's first row, and how many rows it has
  // The largest logit; the step that it is at (-1: in another lane); its class, by row.
  alignas(kCacheLine) C largest[kRowLanes];
  alignas(kCacheLine) Index peak_step[kRowLanes], peak[kRowLanes];
  alignas(kCacheLine) C rest[kRowLanes], log_sum[kRowLanes], inverse[kRowLanes];

  explicit RowTile(const RowPlan& plan) : plan(plan) {}

  // Where the tile's first step begins in an array, and where a class of a row is from there.
  int64_t offset() const { return plan.along_classes ? 0 : first; }
  int64_t element(int64_t c, int64_t row) const { return plan.along_classes ? c : c * plan.pitch + row; }
  SoftmaxRow<C> softmax(int64_t lane) const { return {rest[lane], log_sum[lane], inverse[lane]}; }

  // Every lane of a row gets the sum over them, in an order that is always the same.
  void combine(C* lanes) const {
    if (!plan.along_classes) return;
    const C total = folded(lanes, [](C a, C b) { return a + b; });
    std::fill(lanes, lanes + kRowLanes, total);
  }

  // The largest logits; NaN is passed over, and found again by take_exponentials.
  void find_largest(const C* __restrict x) {
    // From one half to the other and back: where a number is replaced by a larger one or by itself, compilers write it
    // under a condition, and branch.
    alignas(kCacheLine) C halves[2][kRowLanes];
    std::fill(halves[0], halves[0] + kRowLanes, -std::numeric_limits<C>::infinity());
    int64_t step = 0, now = 0;
    for (int64_t i = 0; step < plan.steps; step += 4, i += 4 * plan.stride(), now = 1 - now) {
      const C* __restrict from = halves[now], * __restrict row = x + i;
      C* __restrict to = halves[1 - now];
      const int64_t next = step + 1 < plan.steps ? plan.stride() : 0, third = step + 2 < plan.steps ? 2 * next : 0;
      const int64_t last = step + 3 < plan.steps ? 3 * next : 0;
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const C first = larger_of(row[lane], row[lane + next]), second = larger_of(row[lane + third], row[lane + last]);
        to[lane] = larger_of(larger_of(first, second), from[lane]);
      }
    }
    std::copy(halves[now], halves[now] + kRowLanes, largest);
    if (plan.along_classes) std::fill(largest, largest + kRowLanes, folded(largest, larger_of<C>));
  }

  // e = exp(largest - x), the sum of all but the peak's, and, if it is asked for, where that is. A row without a finite
  // largest logit is NaN.
  template <bool FindPeak>
  void take_exponentials(const C* __restrict x, C* __restrict e) {
    alignas(kCacheLine) C sum[kRowLanes], most[kRowLanes], peaks[kRowLanes] = {};
    alignas(kCacheLine) Index found[kRowLanes];
    std::copy(largest, largest + kRowLanes, most);
    std::fill(found, found + kRowLanes, Index(-1));
    for (int64_t lane = 0; lane < kRowLanes; ++lane) sum[lane] = most[lane] - most[lane];
    for (int64_t step = 0, i = 0; step < plan.steps; ++step, i += plan.stride()) {
      const Index here = static_cast<Index>(step);
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        const C below = most[lane] - x[i + lane], power = exp_decay(below);
        const bool is_peak = below == 0;
        e[i + lane] = power;
        // One selection: of two with one condition compilers make a branch.
        const C one = is_peak ? C(1) : C(0);
        sum[lane] += (1 - one) * power;
        peaks[lane] += one;
        if constexpr (FindPeak) found[lane] = std::max(found[lane], is_peak ? here : Index(-1));
      }
    }
    combine(sum);
    combine(peaks);
    if constexpr (FindPeak) choose_peaks(found);
    // Of several peaks one is the peak, and the others are others.
    for (int64_t lane = 0; lane < kRowLanes; ++lane) sum[lane] += std::max(C(0), peaks[lane] - 1);
    finish(sum);
  }

  // The sum of the array weighted by the probabilities, after the peak's own has been taken away from all: differences
  // to the peak are exact where it has nearly all of the probability.
  void centre(const C* __restrict e, C* __restrict v, C* mean) const {
    alignas(kCacheLine) C at_peak[kRowLanes] = {};
    for (int64_t row = 0; row < rows; ++row) at_peak[row] = v[element(peak[row], row)];
    if (plan.along_classes) std::fill(at_peak, at_peak + kRowLanes, C(at_peak[0]));
    std::fill(mean, mean + kRowLanes, C(0));
    for (int64_t step = 0, i = 0; step < plan.steps; ++step, i += plan.stride()) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kRowLanes; ++lane) {
        v[i + lane] -= at_peak[lane];
        mean[lane] += e[i + lane] * v[i + lane];
      }
    }
    combine(mean);
    for (int64_t lane = 0; lane < kRowLanes; ++lane) mean[lane] *= inverse[lane];
  }

 private:
  // Where nothing was found, in a row of NaN, the first.
  void choose_peaks(const Index* found) {
    if (plan.along_classes) {
      const int64_t lane = std::max_element(found, found + kRowLanes) - found;
      const Index step = std::max(Index(0), found[lane]);
      std::fill(peak_step, peak_step + kRowLanes, Index(-1));
      peak_step[lane] = step;
      peak[0] = static_cast<Index>(step * kRowLanes + lane);
    } else {
      for (int64_t lane = 0; lane < kRowLanes; ++lane) peak[lane] = peak_step[lane] = std::max(Index(0), found[lane]);
    }
  }
  void finish(const C* sum) {
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < kRowLanes; ++lane) {
      const SoftmaxRow<C> row(sum[lane]);
      rest[lane] = sum[lane];
      log_sum[lane] = row.log_sum;
      inverse[lane] = row.inverse;
    }
  }
};

// A sum over all classes of a row but the peak, and the peak's own.
template <class C>
struct SumAroundPeak {
  alignas(kCacheLine) C others[kRowLanes] = {}, peak[kRowLanes] = {};

  // One selection: of two with one condition compilers make a branch.
  HANDGRAD_MATH void add(int64_t lane, C value, bool is_peak) {
    const C at_peak = is_peak ? value : C(0);
    peak[lane] += at_peak;
    others[lane] += value - at_peak;
  }
  void combine(const RowTile<C>& tile) {
    tile.combine(others);
    tile.combine(peak);
  }
};

// ---- all rows -------------------------------------------------------------------------------------------------------

// worker.work(run) for every run of rows, by workers that make_worker() makes, one for each thread. What they return is
// added up block by block, in their order.
template <class MakeWorker>
double sum_over_runs(const RowPlan& plan, bool summed, const MakeWorker& make_worker) {
  std::vector<double> partial(static_cast<size_t>(summed ? plan.blocks : 0));
  const auto work = [&](auto& worker, int64_t block, int64_t part) {
    const int64_t sample = block / plan.blocks_per_sample, first = block % plan.blocks_per_sample * plan.width;
    const int64_t count = std::min(plan.width, plan.positions - first), step = plan.along_classes ? 1 : count;
    double total = 0;
    for (int64_t row = 0; row < count; row += step) total += worker.work({sample, first + row, step, part});
    if (summed) partial[static_cast<size_t>(block)] = total;
  };
  parallel_for(plan.parts, plan.classes * plan.width, [&](int64_t begin, int64_t end) {
    auto worker = make_worker();
    for (int64_t part = begin; part < end; ++part) {
      const int64_t last = (part + 1) * plan.blocks / plan.parts;
      for (int64_t block = part * plan.blocks / plan.parts; block < last; ++block) work(worker, block, part);
    }
  });
  double total = 0;
  for (const double value : partial) total += value;
  return total;
}

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

// Asks for what a tile's place holds in a run, from position `first` on, before it is needed. Of images each class lies
// in a page of its own, and a run is too short there for a processor to see that more will follow.
template <bool Write, class Pointer>
HANDGRAD_MATH void fetch_tile(const RowPlan& plan, const StoredView<Pointer, 3>& of, int64_t sample, int64_t first) {
#if defined(__GNUC__)
  if (!of || plan.along_classes || of.strides[2] != 1 || first + kRowLanes > plan.positions) return;
  const Stored<Pointer> start = of.at(sample, 0, first);
  const int64_t step = (start + of.strides[1]).data - start.data, bytes = (start + kRowLanes).data - start.data;
  for (int64_t c = 0; c < plan.classes; ++c) {
    for (int64_t k = 0; k < bytes; k += kCacheLine) __builtin_prefetch(start.data + c * step + k, Write, 2);
  }
#endif
}

// x = weight (added + factor x) for each class of all rows.
template <class C>
void weigh_rows(const RowPlan& plan, const View<const C, 1>& weight, C added, C factor, C* x) {
  if (!weight && added == 0 && factor == 1) return;
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
