// cpu/unit_rows.h on CUDA devices: vectors of length one, derivatives through the division by the length. A warp takes
// a row; what it adds up is known to all of its threads.
#pragma once

#include "abi/view.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "math/row_table.h"

namespace handgrad {

inline constexpr int kUnitThreads = 256;

inline Blocks blocks_of_warps(int64_t rows) { return blocks_for(rows * kWarpSize, kUnitThreads); }

__device__ __forceinline__ int64_t row_of_warp() {
  return (int64_t{blockIdx.x} * kUnitThreads + threadIdx.x) / kWarpSize;
}
__device__ __forceinline__ int64_t lane_of_warp() { return threadIdx.x % kWarpSize; }

// The sum over a warp, in an order that is always the same, in all of its threads.
__device__ __forceinline__ double warp_total(double value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// Dense unit vectors, their directions if there are any, and what they have of lengths.
template <class C>
struct UnitRowsView {
  C *unit = nullptr, *rate = nullptr;            // [rows, width]
  double *inverse = nullptr, *growth = nullptr;  // [rows]
};

// Memory of such.
template <class C>
class UnitRowsMemory {
 public:
  UnitRowsMemory(int64_t rows, int64_t width, bool moves, const Tensor& like)
      : units(empty_vector<C>(rows * width, like)), lengths_(empty_vector<double>(2 * rows, like)), rows_(rows) {
    if (moves) rates = empty_vector<C>(rows * width, like);
  }
  UnitRowsView<C> view() const {
    double* const lengths = lengths_.mutable_data_ptr<double>();
    return {units.mutable_data_ptr<C>(), rates ? rates->mutable_data_ptr<C>() : nullptr, lengths, lengths + rows_};
  }

  Tensor units;
  std::optional<Tensor> rates;

 private:
  Tensor lengths_;
  int64_t rows_;
};

// Rows of a table that are left out, by a number that each has.
struct LeftOut {
  View<const int64_t, 1> numbers;
  int64_t number = 0;

  __device__ bool operator()(int64_t row) const { return numbers && load(numbers.at(row)) == number; }
};

// Rows [first, first + count) of a table. What is left out is zero.
template <class C>
__global__ void __launch_bounds__(kUnitThreads, kMinBlocks)
    unit_rows_kernel(RowTable<const C> table, RowTable<const C> directions, LeftOut left_out, int64_t first,
                     int64_t count, UnitRowsView<C> to) {
  HANDGRAD_LAUNCH_BOUNDS(kUnitThreads);
  const int64_t i = row_of_warp(), lane = lane_of_warp(), width = table.width;
  if (i >= count) return;
  const bool out = left_out(i);
  double squared = 0, along = 0;
  dispatch_storage<C>(table.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* const row = table.row(first + i).template as<T>();
    const T* const direction = directions ? directions.row(first + i).template as<T>() : nullptr;
#pragma unroll 4
    for (int64_t d = lane; d < width; d += kWarpSize) {
      const double x = out ? 0.0 : static_cast<double>(widen(load(row + d * table.stride)));
      squared += x * x;
      if (direction) along += x * static_cast<double>(widen(load(direction + d * directions.stride)));
    }
  });
  squared = warp_total(squared);
  if (directions) along = warp_total(along);
  const double inverse = out || squared == 0 ? 0 : 1 / square_root(squared);
  along = out ? 0 : along * inverse;
  dispatch_storage<C>(table.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* const row = table.row(first + i).template as<T>();
    const T* const direction = directions ? directions.row(first + i).template as<T>() : nullptr;
#pragma unroll 4
    for (int64_t d = lane; d < width; d += kWarpSize) {
      const double unit = out ? 0.0 : static_cast<double>(widen(load(row + d * table.stride))) * inverse;
      store(to.unit + i * width + d, static_cast<C>(unit));
      if (direction) {
        const double v = out ? 0.0 : static_cast<double>(widen(load(direction + d * directions.stride)));
        store(to.rate + i * width + d, static_cast<C>((v - along * unit) * inverse));
      }
    }
  });
  if (lane != 0) return;
  store(to.inverse + i, inverse);
  store(to.growth + i, along * inverse);
}

// Gradients of unit vectors as those of rows of the table; or, with `h_rate`, the change of these.
template <class C>
__global__ void __launch_bounds__(kUnitThreads, kMinBlocks)
    project_rows_kernel(UnitRowsView<C> of, const C* h, const C* h_rate, int64_t first, int64_t count, RowTable<C> to) {
  HANDGRAD_LAUNCH_BOUNDS(kUnitThreads);
  const int64_t i = row_of_warp(), lane = lane_of_warp(), width = to.width, begin = i * width;
  if (i >= count) return;
  double along = 0, rate_along = 0;
#pragma unroll 4
  for (int64_t d = lane; d < width; d += kWarpSize) {
    const double unit = static_cast<double>(load(of.unit + begin + d)), x = static_cast<double>(load(h + begin + d));
    along += unit * x;
    if (h_rate) rate_along += unit * static_cast<double>(load(h_rate + begin + d));
    if (h_rate && of.rate) rate_along += static_cast<double>(load(of.rate + begin + d)) * x;
  }
  const C c = static_cast<C>(warp_total(along)), inverse = static_cast<C>(load(of.inverse + i));
  const C growth = of.rate ? static_cast<C>(load(of.growth + i)) : C(0);
  const C c_rate = h_rate ? static_cast<C>(warp_total(rate_along)) : C(0);
  dispatch_storage<C>(to.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* const row = to.row(first + i).template as<T>();
#pragma unroll 4
    for (int64_t d = lane; d < width; d += kWarpSize) {
      const C unit = load(of.unit + begin + d);
      C result = load(h + begin + d) - c * unit;
      if (h_rate) {
        const C of_rate = of.rate ? c * load(of.rate + begin + d) + growth * result : C(0);
        result = load(h_rate + begin + d) - c_rate * unit - of_rate;
      }
      store(row + d * to.stride, narrow<T>(result * inverse));
    }
  });
}

}  // namespace handgrad
