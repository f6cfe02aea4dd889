// Kernels of rows of pairs on CUDA devices (math/pair_rows.h): a warp takes a row.
//
// In order of appearance: WarpTeam; the vectors of a set; rows of pairs.
#pragma once

#include "cuda/unit_rows.cuh"
#include "math/pair_rows.h"

namespace handgrad {

// ---- a warp, as formulas see it
// -------------------------------------------------------------------------------------

// (Formulas are for host and device: there these are never called.)
#if defined(__CUDA_ARCH__) || defined(HANDGRAD_EMULATED)
#define HANDGRAD_ON_DEVICE(...) __VA_ARGS__
#else
#define HANDGRAD_ON_DEVICE(...) \
  return {}
#endif

struct DeviceAccess {
  template <class T>
  HANDGRAD_MATH static T load(const T* from) {
    HANDGRAD_ON_DEVICE(return handgrad::load(from));
  }
  template <class T>
  HANDGRAD_MATH static int store(T* to, T value) {
    HANDGRAD_ON_DEVICE(handgrad::store(to, value); return 0);
  }
};

struct WarpTeam {
  int64_t lane;

  // A thread has the same indices in every call.
  template <class Body>
  HANDGRAD_MATH void each(int64_t count, const Body& body) const {
    for (int64_t j = lane; j < count; j += kWarpSize) body(j);
  }
  template <class Body>
  HANDGRAD_MATH void each_alike(int64_t count, const Body& body) const {
    each(count, body);
  }
  HANDGRAD_MATH double sum(double value) const { HANDGRAD_ON_DEVICE(return warp_total(value)); }
  HANDGRAD_MATH Extreme largest(Extreme mine) const {
    HANDGRAD_ON_DEVICE(for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
      const double value = __shfl_xor_sync(0xffffffffu, mine.value, distance);
      const int64_t index = __shfl_xor_sync(0xffffffffu, mine.index, distance);
      if (index >= 0) mine.show(value, index);
    } return mine);
  }
};

#undef HANDGRAD_ON_DEVICE

// ---- the vectors of a set
// -------------------------------------------------------------------------------------------

// The mean of a table's rows, a thread for each column.
template <class C>
__global__ void __launch_bounds__(kUnitThreads, kMinBlocks)
    mean_row_kernel(RowTable<const C> table, int64_t rows, double* mean) {
  HANDGRAD_LAUNCH_BOUNDS(kUnitThreads);
  const int64_t d = int64_t{blockIdx.x} * kUnitThreads + threadIdx.x;
  if (d >= table.width) return;
  double sum = 0;
  dispatch_storage<C>(table.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t i = 0; i < rows; ++i) {
      sum += static_cast<double>(widen(load(table.row(i).template as<T>() + d * table.stride)));
    }
  });
  store(mean + d, sum / static_cast<double>(rows));
}

template <class C>
__global__ void __launch_bounds__(kUnitThreads, kMinBlocks)
    centred_rows_kernel(RowTable<const C> table, int64_t rows, const double* mean, C* to) {
  HANDGRAD_LAUNCH_BOUNDS(kUnitThreads);
  const int64_t i = row_of_warp();
  if (i >= rows) return;
  dispatch_storage<C>(table.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t d = lane_of_warp(); d < table.width; d += kWarpSize) {
      const double x = static_cast<double>(widen(load(table.row(i).template as<T>() + d * table.stride)));
      store(to + i * table.width + d, static_cast<C>(x) - static_cast<C>(load(mean + d)));
    }
  });
}

// Squared lengths, and how they move.
template <class C>
struct Squares {
  const C *vectors = nullptr, *rates = nullptr;  // [rows, width]
  double *squared = nullptr, *squared_rates = nullptr;
  int64_t rows = 0, width = 0;
};

template <class C>
__global__ void __launch_bounds__(kUnitThreads, kMinBlocks) squares_kernel(Squares<C> of) {
  HANDGRAD_LAUNCH_BOUNDS(kUnitThreads);
  const int64_t i = row_of_warp();
  if (i >= of.rows) return;
  double squared = 0, moved = 0;
  for (int64_t d = lane_of_warp(); d < of.width; d += kWarpSize) {
    const double x = static_cast<double>(load(of.vectors + i * of.width + d));
    squared += x * x;
    if (of.rates) moved += 2 * x * static_cast<double>(load(of.rates + i * of.width + d));
  }
  squared = warp_total(squared), moved = warp_total(moved);
  if (lane_of_warp() != 0) return;
  store(of.squared + i, squared);
  store(of.squared_rates + i, moved);
}

// ---- rows of pairs
// --------------------------------------------------------------------------------------------------

// Rows [first, first + rows) of the matrix of pairs: products, which become measures, and the derivatives with respect
// to products.
template <class C>
struct PairChunk {
  C *values, *rates, *slopes, *slope_rates;  // [rows, count]
  int64_t first, rows, count;
  const int64_t* labels;           // [count]
  View<const C, 2> grad_output;    // [count, 2]
  C* output;                       // [count, 2]
  bool scales;                     // whether derivatives with respect to products are asked for
  double *squares, *square_rates;  // [count], with respect to the squared lengths of anchors
};

template <class C>
__device__ __forceinline__ Measured squared_distance(const Squares<C>& of, int64_t i, int64_t j, C product, C rate) {
  const Pair pair{static_cast<double>(product), load(of.squared + i),       load(of.squared + j),
                  static_cast<double>(rate),    load(of.squared_rates + i), load(of.squared_rates + j)};
  if (!pair.is_near()) return {pair.squared_distance(), pair.squared_distance_rate()};
  Measured near{0, 0};
  for (int64_t d = 0; d < of.width; ++d) {
    const int64_t a = i * of.width + d, b = j * of.width + d;
    const double difference = static_cast<double>(load(of.vectors + a)) - static_cast<double>(load(of.vectors + b));
    near.value += difference * difference;
    if (of.rates) {
      near.rate += 2 * difference * (static_cast<double>(load(of.rates + a)) - static_cast<double>(load(of.rates + b)));
    }
  }
  return near;
}

// A warp for each anchor.
template <class C, class Formula, bool Derivatives, bool Moves>
__global__ void __launch_bounds__(kUnitThreads, kMinBlocks)
    pair_rows_kernel(PairChunk<C> chunk, Squares<C> squares, Formula formula, PairMeasure measure) {
  HANDGRAD_LAUNCH_BOUNDS(kUnitThreads);
  const int64_t r = row_of_warp();
  if (r >= chunk.rows) return;
  const WarpTeam team{lane_of_warp()};
  const int64_t offset = r * chunk.count, i = chunk.first + r;
  const PairRow<C, DeviceAccess> row{chunk.values + offset, Moves ? chunk.rates + offset : nullptr,
                                     chunk.slopes + offset, Moves ? chunk.slope_rates + offset : nullptr,
                                     chunk.labels,          i,
                                     chunk.count,           load(chunk.labels + i)};
  if (measure != PairMeasure::cosine) {
    team.each(chunk.count, [&](int64_t j) {
      const C rate = Moves ? load(chunk.rates + offset + j) : C(0);
      const Measured squared = squared_distance(squares, i, j, load(chunk.values + offset + j), rate);
      const Measured pair = measured(measure, squared.value, squared.rate);
      store(chunk.values + offset + j, static_cast<C>(pair.value));
      if constexpr (Moves) store(chunk.rates + offset + j, static_cast<C>(pair.rate));
    });
    // What one lane has written others of the warp read.
    __syncwarp();
  }
  const PairLoss loss = formula.template operator()<Derivatives, Moves>(team, row);
  double first = loss.loss, second = loss.terms;
  if constexpr (Moves) {
    first = 0, second = 0;
    team.each(chunk.count, [&](int64_t j) { first += row.slope(j) == 0 ? 0 : row.slope(j) * row.rate(j); });
    first = team.sum(first);
  }
  if (chunk.output && team.lane == 0) {
    store(chunk.output + i * kPairResults, static_cast<C>(first));
    store(chunk.output + i * kPairResults + 1, static_cast<C>(second));
  }
  if constexpr (Derivatives) {
    if (!chunk.scales) return;
    const double grad = static_cast<double>(load(chunk.grad_output.at(i, 0)));
    double total = 0, total_rate = 0;
    team.each(chunk.count, [&](int64_t j) {
      double slope = grad * row.slope(j), slope_rate = Moves ? grad * row.slope_rate(j) : 0;
      if (measure != PairMeasure::cosine) {
        const Measured of = of_square(measure, row.value(j), Moves ? row.rate(j) : 0, slope, slope_rate);
        total += of.value, total_rate += of.rate;
        slope = -2 * of.value, slope_rate = -2 * of.rate;
      }
      row.set_slope(j, slope);
      if constexpr (Moves) row.set_slope_rate(j, slope_rate);
    });
    total = team.sum(total), total_rate = team.sum(total_rate);
    if (measure == PairMeasure::cosine || team.lane != 0) return;
    store(chunk.squares + i, load(chunk.squares + i) + total);
    if constexpr (Moves) store(chunk.square_rates + i, load(chunk.square_rates + i) + total_rate);
  }
}

// Adds what a chunk's columns contribute to the derivatives with respect to squared lengths, a thread for each.
template <class C>
__global__ void __launch_bounds__(kUnitThreads, kMinBlocks) pair_columns_kernel(PairChunk<C> chunk) {
  HANDGRAD_LAUNCH_BOUNDS(kUnitThreads);
  const int64_t j = int64_t{blockIdx.x} * kUnitThreads + threadIdx.x;
  if (j >= chunk.count) return;
  double total = load(chunk.squares + j), total_rate = chunk.slope_rates ? load(chunk.square_rates + j) : 0;
  for (int64_t r = 0; r < chunk.rows; ++r) {
    total -= static_cast<double>(load(chunk.slopes + r * chunk.count + j)) / 2;
    if (chunk.slope_rates) total_rate -= static_cast<double>(load(chunk.slope_rates + r * chunk.count + j)) / 2;
  }
  store(chunk.squares + j, total);
  if (chunk.slope_rates) store(chunk.square_rates + j, total_rate);
}

// The gradients of embeddings from those of centred vectors, or their change.
template <class C>
__global__ void __launch_bounds__(kUnitThreads, kMinBlocks)
    store_distances_kernel(Squares<C> of, const C* h, const C* h_rate, const double* squares,
                           const double* square_rates, RowTable<C> to) {
  HANDGRAD_LAUNCH_BOUNDS(kUnitThreads);
  const int64_t i = row_of_warp(), begin = i * of.width;
  if (i >= of.rows) return;
  const C square = static_cast<C>(2 * load(squares + i));
  const C change = h_rate ? static_cast<C>(2 * load(square_rates + i)) : C(0);
  dispatch_storage<C>(to.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t d = lane_of_warp(); d < of.width; d += kWarpSize) {
      const C x = load(of.vectors + begin + d);
      const C result = h_rate ? load(h_rate + begin + d) + change * x + square * load(of.rates + begin + d)
                              : load(h + begin + d) + square * x;
      store(to.row(i).template as<T>() + d * to.stride, narrow<T>(result));
    }
  });
}

}  // namespace handgrad
