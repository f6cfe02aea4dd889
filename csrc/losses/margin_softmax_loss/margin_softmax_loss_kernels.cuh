// Kernels of margin softmax loss on CUDA devices: the target of each row, a chunk of cosines summed or turned into
// derivatives in place, and the few numbers that each row has. A class has as many columns as centres, and its cosine
// is the largest of theirs, of equal ones the first.
//
// In order of appearance: find_targets_kernel; add_others_kernel; the numbers of rows; slopes_kernel.
#pragma once

#include "cuda/unit_rows.cuh"
#include "margin_softmax_loss_host.h"

namespace handgrad::margin_softmax_loss {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / kWarpSize;

// ---- targets --------------------------------------------------------------------------------------------------------

template <class C>
struct TargetOperands {
  View<const int64_t, 1> targets;  // [N]
  int64_t ignore_index, classes, centres, rows;
  Margin margin;
  UnitRowsView<C> units;  // of embeddings
  RowTable<const C> weight, direction_weight;
};

// Sums over a row's elements of a product with a vector that has been stored in any type.
template <class C, int N>
__device__ void row_sums(const RowTable<const C>& table, int64_t column, const C* const (&others)[N],
                         double (&sums)[N]) {
  for (double& sum : sums) sum = 0;
  dispatch_storage<C>(table.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* const row = table.row(column).template as<T>();
    for (int64_t d = lane_of_warp(); d < table.width; d += kWarpSize) {
      const double w = static_cast<double>(widen(load(row + d * table.stride)));
#pragma unroll
      for (int k = 0; k < N; ++k) sums[k] += w * (others[k] ? static_cast<double>(load(others[k] + d)) : w);
    }
  });
  for (double& sum : sums) sum = warp_total(sum);
}

// The direction's products with the embedding and with the centre itself.
template <class C>
__device__ void direction_sums(const RowTable<const C>& directions, const RowTable<const C>& table, int64_t column,
                               const C* unit, double& with_unit, double& with_row) {
  with_unit = 0, with_row = 0;
  dispatch_storage<C>(table.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T *const row = table.row(column).template as<T>(), *const v = directions.row(column).template as<T>();
    for (int64_t d = lane_of_warp(); d < table.width; d += kWarpSize) {
      const double moved = static_cast<double>(widen(load(v + d * directions.stride)));
      with_unit += moved * static_cast<double>(load(unit + d));
      with_row += moved * static_cast<double>(widen(load(row + d * table.stride)));
    }
  });
  with_unit = warp_total(with_unit), with_row = warp_total(with_row);
}

// A warp for each row.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks) find_targets_kernel(TargetOperands<C> from, Target* to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = row_of_warp();
  if (i >= from.rows) return;
  const int64_t c = load(from.targets.at(i));
  Target target{c == from.ignore_index ? kIgnored : kNoClass, {0, 0, 0}, 0};
  if (target.column == kNoClass && c >= 0 && c < from.classes) {
    const C* const unit = from.units.unit + i * from.weight.width;
    double nearest = 0, inverse = 0, squared = 0;
    // Unit vectors have length 1 but for rounding, which near a cosine of 1 is all that there is to an angle.
    for (int64_t d = lane_of_warp(); d < from.weight.width; d += kWarpSize) {
      const double x = static_cast<double>(load(unit + d));
      squared += x * x;
    }
    squared = warp_total(squared);
    const double of_unit = squared == 0 ? 0 : 1 / square_root(squared);
    for (int64_t k = 0; k < from.centres; ++k) {
      double sums[2];
      row_sums<C>(from.weight, c * from.centres + k, {nullptr, unit}, sums);
      const double length = sums[0] == 0 ? 0 : 1 / square_root(sums[0]), cosine = sums[1] * length * of_unit;
      if (k > 0 && !(cosine > nearest) && !(cosine != cosine && nearest == nearest)) continue;
      nearest = cosine, inverse = length;
      target.column = c * from.centres + k;
    }
    target.margin = from.margin.at(nearest);
    if (from.units.rate) {
      double sums[1];
      row_sums<C>(from.weight, target.column, {from.units.rate + i * from.weight.width}, sums);
      target.rate += sums[0] * inverse;
    }
    if (from.direction_weight) {
      double with_unit, with_row;
      direction_sums(from.direction_weight, from.weight, target.column, unit, with_unit, with_row);
      target.rate += (with_unit - with_row * inverse * nearest) * inverse;
    }
  }
  if (lane_of_warp() == 0) store(to + i, target);
}

// ---- the other classes ----------------------------------------------------------------------------------------------

// Columns [first, first + columns) of the cosines of all rows, and how they move.
template <class C>
struct Chunk {
  C *cosines, *rates;  // [rows, columns]
  int64_t rows, first, columns, centres;
};

// The column of a class of a row.
template <class C>
__device__ __forceinline__ int64_t nearest_column(const Chunk<C>& chunk, int64_t row, int64_t c) {
  int64_t best = row * chunk.columns + c * chunk.centres;
  const int64_t first = best;
  for (int64_t k = 1; k < chunk.centres; ++k) {
    const C cosine = load(chunk.cosines + first + k), largest = load(chunk.cosines + best);
    if (cosine > largest || (cosine != cosine && largest == largest)) best = first + k;
  }
  return best;
}

__device__ __forceinline__ void merge_warp(Others& others, double scale) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    Others other;
    other.largest = __shfl_xor_sync(0xffffffffu, others.largest, distance);
    other.sum = __shfl_xor_sync(0xffffffffu, others.sum, distance);
    other.rates = __shfl_xor_sync(0xffffffffu, others.rates, distance);
    // The lower lane's first: both sides of an exchange have the same bits.
    Others first = threadIdx.x & distance ? other : others;
    first.merge(threadIdx.x & distance ? others : other, scale);
    others = first;
  }
}

// Adds a chunk's classes but the target to each row's; a block has a row.
template <class C, bool Moves>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    add_others_kernel(Chunk<C> chunk, const Target* targets, double scale, bool begins, Others* to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  __shared__ double meeting[3][kWarps];
  const int64_t row = blockIdx.x, classes = chunk.columns / chunk.centres;
  const int64_t column = load(&targets[row].column);
  // (A class before the first: division of negative numbers would bring it to 0.)
  const int64_t target = column < chunk.first ? -1 : (column - chunk.first) / chunk.centres;
  const C factor = static_cast<C>(scale);
  C largest = -std::numeric_limits<C>::infinity(), sum = 0, moved = 0;
#pragma unroll 1
  for (int64_t c = threadIdx.x; c < classes; c += kThreads) {
    if (c == target) continue;
    const int64_t i = nearest_column(chunk, row, c);
    const C cosine = load(chunk.cosines + i), rate = Moves ? load(chunk.rates + i) : C(0);
    const bool above = cosine > largest;
    const C power = sum == 0 ? C(1) : exp_decay(factor * (above ? cosine - largest : largest - cosine));
    sum = sum == 0 ? (cosine == cosine ? C(1) : cosine) : above ? sum * power + 1 : sum + power;
    if constexpr (Moves) {
      moved = largest == -std::numeric_limits<C>::infinity() ? rate
              : above                                        ? moved * power + rate
                                                             : moved + power * rate;
    }
    largest = above ? cosine : largest;
  }
  Others others;
  others.largest = static_cast<double>(largest);
  others.sum = static_cast<double>(sum);
  others.rates = static_cast<double>(moved);
  merge_warp(others, scale);
  if (threadIdx.x % kWarpSize == 0) {
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    meeting[0][warp] = others.largest, meeting[1][warp] = others.sum, meeting[2][warp] = others.rates;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  Others total;
  if (!begins) total = load(to + row);
  for (int warp = 0; warp < kWarps; ++warp) {
    Others other;
    other.largest = meeting[0][warp], other.sum = meeting[1][warp], other.rates = meeting[2][warp];
    total.merge(other, scale);
  }
  store(to + row, total);
}

// ---- the numbers of rows --------------------------------------------------------------------------------------------

// The loss of each row, and how it moves.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    row_losses_kernel(int64_t rows, const Target* targets, const Others* others, double scale, C* losses, C* rates,
                      double* wide) {  // [2, rows]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= rows) return;
  const Target target = load(targets + i);
  double loss = 0, rate = 0;
  if (target.column == kNoClass) {
    loss = rate = std::numeric_limits<double>::quiet_NaN();
  } else if (target.column >= 0) {
    const Others of_row = load(others + i);
    loss = loss_of(of_row, target, scale);
    rate = rate_of(of_row, target, loss, scale);
  }
  if (losses) store(losses + i, static_cast<C>(loss));
  if (rates) store(rates + i, static_cast<C>(rate));
  if (wide) store(wide + i, loss), store(wide + rows + i, rate);
}

// From losses, of the forward or of the kernel before this.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    row_slopes_kernel(int64_t rows, const Target* targets, View<const C, 1> losses, const double* wide,
                      View<const C, 1> grad_output, double scale, RowSlopes<C>* to) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= rows) return;
  const double loss = wide ? load(wide + i) : static_cast<double>(load(losses.at(i)));
  const double rate = wide ? load(wide + rows + i) : 0;
  store(to + i, RowSlopes<C>(load(targets + i), loss, rate, static_cast<double>(load(grad_output.at(i))), scale));
}

// ---- derivatives with respect to cosines ----------------------------------------------------------------------------

// In place of the cosines, and of what they move by. A row has `pieces` blocks.
template <class C, bool Moves>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    slopes_kernel(Chunk<C> chunk, const RowSlopes<C>* rows, C scale, int64_t pieces) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t row = blockIdx.x / pieces, piece = blockIdx.x % pieces, classes = chunk.columns / chunk.centres;
  const RowSlopes<C> of_row = load(rows + row);
  const int64_t target = of_row.column < 0 ? -1 : row * chunk.columns + of_row.column - chunk.first;
#pragma unroll 1
  for (int64_t c = piece * kThreads + threadIdx.x; c < classes; c += pieces * kThreads) {
    const int64_t first = row * chunk.columns + c * chunk.centres;
    const bool is_target = of_row.column >= chunk.first && target >= first && target < first + chunk.centres;
    const int64_t nearest = is_target ? target : nearest_column(chunk, row, c);
    C slope = 0, slope_rate = 0;
    if (of_row.column != kIgnored) {
      slope = is_target ? of_row.target : of_row.slope(load(chunk.cosines + nearest), scale);
      if constexpr (Moves) {
        slope_rate = is_target ? of_row.target_rate : of_row.slope_rate(slope, load(chunk.rates + nearest), scale);
      }
    }
    for (int64_t k = first; k < first + chunk.centres; ++k) {
      store(chunk.cosines + k, k == nearest ? slope : C(0));
      if constexpr (Moves) store(chunk.rates + k, k == nearest ? slope_rate : C(0));
    }
  }
}

}  // namespace handgrad::margin_softmax_loss
