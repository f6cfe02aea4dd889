// Vectors of length one, and derivatives through the division by the length. With u = x / |x|, h the gradient of u and
// v a direction of x:
//
//   gradient of x   (h - (u h) u) / |x|               direction of u   u' = (v - (u v) u) / |x|
//   and the gradient's change along v, h' being that of h:
//   (h' - (u h') u - (u' h) u - (u h) u' - (u v) (h - (u h) u) / |x|) / |x|
//
// A vector of zeros has no direction: u, its gradient and its directions are 0. Sums are taken in double.
#pragma once

#include <cmath>

#include "cpu/scratch.h"
#include "math/row_table.h"

namespace handgrad {

template <class C>
double dot_row(const C* a, const C* b, int64_t width) {
  double sum = 0;
  _Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < width; ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return sum;
}

// u of a row; returns 1 / |x|, or 0.
template <class C>
double unit_row(const RowTable<const C>& table, int64_t index, C* unit) {
  load_run(table.row(index), table.stride, table.width, unit);
  const double squared = dot_row(unit, unit, table.width);
  const double inverse = squared == 0 ? 0 : 1 / std::sqrt(squared);
  HANDGRAD_SIMD
  for (int64_t i = 0; i < table.width; ++i) unit[i] = static_cast<C>(static_cast<double>(unit[i]) * inverse);
  return inverse;
}

// u' of a row; returns (u v) / |x|.
template <class C>
double unit_row_rate(const RowTable<const C>& directions, int64_t index, const C* unit, double inverse, C* rate) {
  load_run(directions.row(index), directions.stride, directions.width, rate);
  const double along = dot_row(unit, rate, directions.width);
  const C c = static_cast<C>(along), scale = static_cast<C>(inverse);
  HANDGRAD_SIMD
  for (int64_t i = 0; i < directions.width; ++i) rate[i] = (rate[i] - c * unit[i]) * scale;
  return along * inverse;
}

// From h to the gradient of x, in place.
template <class C>
void project_row(const C* unit, double inverse, int64_t width, C* h) {
  const C c = static_cast<C>(dot_row(unit, h, width)), scale = static_cast<C>(inverse);
  HANDGRAD_SIMD
  for (int64_t i = 0; i < width; ++i) h[i] = (h[i] - c * unit[i]) * scale;
}

// From h' to the change of the gradient of x, in place; `growth` is (u v) / |x|.
template <class C>
void project_row_rate(const C* unit, const C* rate, double inverse, double growth, const C* h, int64_t width,
                      C* h_rate) {
  const double along = dot_row(unit, h, width);
  const C c = static_cast<C>(along), g = static_cast<C>(growth), scale = static_cast<C>(inverse);
  const C d = static_cast<C>(dot_row(unit, h_rate, width) + dot_row(rate, h, width));
  HANDGRAD_SIMD
  for (int64_t i = 0; i < width; ++i) {
    h_rate[i] = (h_rate[i] - d * unit[i] - c * rate[i] - g * (h[i] - c * unit[i])) * scale;
  }
}

// Some rows of a table as unit vectors, dense, with their directions if there are any.
template <class C>
class UnitRows {
 public:
  UnitRows(int64_t most, int64_t width, bool moves)
      : width_(width),
        unit_(static_cast<size_t>(most * width)),
        rate_(static_cast<size_t>(moves ? most * width : 0)),
        inverse_(static_cast<size_t>(most)),
        growth_(static_cast<size_t>(most)) {}

  // Rows [first, first + count) of the table, from row `to` on.
  void load(const RowTable<const C>& table, const RowTable<const C>& directions, int64_t first, int64_t count,
            int64_t to = 0) {
    for (int64_t i = 0; i < count; ++i) {
      double& inverse = inverse_[static_cast<size_t>(to + i)];
      inverse = unit_row(table, first + i, mutable_unit(to + i));
      if (directions) {
        growth_[static_cast<size_t>(to + i)] =
            unit_row_rate(directions, first + i, unit(to + i), inverse, rate_.data() + (to + i) * width_);
      }
    }
  }
  // A row that stands for none.
  void clear(int64_t index) {
    std::fill_n(mutable_unit(index), width_, C(0));
    if (!rate_.empty()) std::fill_n(rate_.data() + index * width_, width_, C(0));
    inverse_[static_cast<size_t>(index)] = 0;
  }
  const C* unit(int64_t index) const { return unit_.data() + index * width_; }
  const C* rate(int64_t index) const { return rate_.data() + index * width_; }
  double inverse(int64_t index) const { return inverse_[static_cast<size_t>(index)]; }
  double growth(int64_t index) const { return growth_[static_cast<size_t>(index)]; }
  bool moves() const { return !rate_.empty(); }

  // From gradients of unit vectors to those of rows of the table, or to their change; both in place.
  void store(const RowTable<C>& to, int64_t first, int64_t count, int64_t from, C* h, C* h_rate) const {
    for (int64_t i = 0; i < count; ++i) {
      C* const of_row = h + i * width_;
      C* result = of_row;
      if (h_rate) {
        result = h_rate + i * width_;
        if (moves()) {
          project_row_rate(unit(from + i), rate(from + i), inverse(from + i), growth(from + i), of_row, width_, result);
        } else {
          project_row(unit(from + i), inverse(from + i), width_, result);
        }
      } else {
        project_row(unit(from + i), inverse(from + i), width_, of_row);
      }
      store_run(result, width_, to.row(first + i), to.stride);
    }
  }

 private:
  C* mutable_unit(int64_t index) { return unit_.data() + index * width_; }

  int64_t width_;
  ScratchVector<C> unit_, rate_;
  std::vector<double> inverse_, growth_;
};

}  // namespace handgrad
