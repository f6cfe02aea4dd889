// The taps of some points of a grid at a time, on the CPU: found once for all channels, in loops over points.
//
// In order of appearance: AxisRun, the taps along one axis; TapRun, those of the image.
#pragma once

#include <type_traits>

#include "grid_sample_host.h"
#include "math/convert.h"

namespace handgrad::grid_sample {

// Points that are taken at a time, and taps of one at most: the square of a bicubic sample.
inline constexpr int64_t kRun = 64;
inline constexpr int kMostTaps = 16;

// ---- an axis --------------------------------------------------------------------------------------------------------

template <class C>
struct AxisRun {
  // Times the axis' stride; below 0 for none.
  int32_t pixel[kMostAxisTaps][kRun];
  C value[kMostAxisTaps][kRun], slope[kMostAxisTaps][kRun], curvature[kMostAxisTaps][kRun];

  HANDGRAD_MATH TapWeight<C> weight(int k, int64_t p) const { return {value[k][p], slope[k][p], curvature[k][p]}; }

  // Of an axis of one pixel that no coordinate belongs to.
  void fill() {
    for (int64_t p = 0; p < kRun; ++p) pixel[0][p] = 0, value[0][p] = 1, slope[0][p] = curvature[0][p] = 0;
  }

  void find(const Axis<C>& axis, int32_t mode, int32_t padding, int32_t stride, const C* coordinates, int64_t count) {
    dispatch_padding(padding, [&](auto known) {
      constexpr int32_t Known = known.value;
      if (mode == kNearest) {
        find_taps<kNearest, Known, 1>(axis, stride, coordinates, count);
      } else if (mode == kBilinear) {
        find_taps<kBilinear, Known, 2>(axis, stride, coordinates, count);
      } else {
        find_taps<kBicubic, Known, 4>(axis, stride, coordinates, count);
      }
    });
  }

 private:
  template <class Body>
  static void dispatch_padding(int32_t padding, const Body& body) {
    if (padding == kZeros) {
      body(std::integral_constant<int32_t, kZeros>());
    } else if (padding == kBorder) {
      body(std::integral_constant<int32_t, kBorder>());
    } else {
      body(std::integral_constant<int32_t, kReflection>());
    }
  }

  template <int32_t Mode, int32_t Padding, int Taps>
  [[gnu::noinline]] void find_taps(const Axis<C>& any, int32_t stride, const C* coordinates, int64_t count) {
    // In registers.
    const Axis<C> axis = any;
    HANDGRAD_SIMD
    for (int64_t p = 0; p < count; ++p) find_point<Mode, Padding, Taps>(axis, stride, coordinates[p], p);
  }

  // Apart from the loop, since structures that a loop declares are not kept in registers.
  template <int32_t Mode, int32_t Padding, int Taps>
  HANDGRAD_MATH void find_point(const Axis<C>& axis, int32_t stride, C coordinate, int64_t p) {
    const Spot<C> at = spot_of(axis, Mode, Padding, coordinate);
#pragma GCC unroll 4
    for (int k = 0; k < Taps; ++k) {
      const AxisTap<C> tap = axis_tap(axis, Mode, Padding, at, k);
      const int32_t whole = static_cast<int32_t>(tap.pixel);
      pixel[k][p] = whole < 0 ? -1 : whole * stride;
      value[k][p] = tap.weight.value, slope[k][p] = tap.weight.slope, curvature[k][p] = tap.weight.curvature;
    }
  }
};

// ---- an image -------------------------------------------------------------------------------------------------------

// What is known of the points: their weights, how these change with the coordinates, and how both change along a
// direction.
enum Order { kWeights, kSlopes, kChanges };

// By tap, then by point. Coordinates are numbered as in the grid: x, y, z.
template <class C>
struct TapRun {
  using OfTaps = C[kMostTaps][kRun];

  int taps;
  int32_t pixel[kMostTaps][kRun];
  OfTaps weight, slope[3];
  OfTaps change, slope_change[3];

  explicit TapRun(const Geometry& geometry) : geometry_(geometry) {
    taps = 1;
    for (int d = 0; d < 3; ++d) {
      axes_[d] = Axis<C>(geometry.size[d], geometry.align_corners);
      runs_[d].fill();
      taps *= geometry.taps(d);
    }
  }

  // Points [first, first + count) of image n.
  template <Order What>
  [[gnu::noinline]] void find(const View<const C, 3>& grid, const View<const C, 3>& v_grid, int64_t n, int64_t first,
                              int64_t count) {
    int64_t stride = 1;
    for (int d = 2; d >= 3 - geometry_.axes; --d) {
      C coordinates[kRun];
      const int at = geometry_.coordinate(d);
      load_run(grid.at(n, first, at), grid.strides[1], count, coordinates);
      runs_[d].find(axes_[d], geometry_.mode, geometry_.padding, static_cast<int32_t>(stride), coordinates, count);
      if (What == kChanges) {
        load_run(v_grid ? v_grid.at(n, first, at) : &kStill, v_grid ? v_grid.strides[1] : 0, count, motion_[at]);
      }
      stride *= geometry_.size[d];
    }
    int tap = 0;
    for (int z = 0; z < geometry_.taps(0); ++z) {
      for (int y = 0; y < geometry_.taps(1); ++y) {
        for (int x = 0; x < geometry_.taps(2); ++x) multiply<What>(z, y, x, tap++, count);
      }
    }
  }

 private:
  static constexpr C kStill = 0;

  template <Order What>
  [[gnu::noinline]] void multiply(int z, int y, int x, int tap, int64_t count) {
    HANDGRAD_SIMD
    for (int64_t p = 0; p < count; ++p) multiply_point<What>(z, y, x, tap, p);
  }

  template <Order What>
  HANDGRAD_MATH void multiply_point(int z, int y, int x, int tap, int64_t p) {
    const AxisRun<C>&along_x = runs_[2], &along_y = runs_[1], &along_z = runs_[0];
    const int32_t px = along_x.pixel[x][p], py = along_y.pixel[y][p], pz = along_z.pixel[z][p];
    pixel[tap][p] = (px | py | pz) < 0 ? -1 : px + py + pz;
    const TapProduct<C> product{along_x.weight(x, p), along_y.weight(y, p), along_z.weight(z, p)};
    weight[tap][p] = product.value();
    if constexpr (What != kWeights) {
      slope[0][tap][p] = product.slope_x(), slope[1][tap][p] = product.slope_y();
      slope[2][tap][p] = product.slope_z();
    }
    if constexpr (What == kChanges) {
      const C vx = motion_[0][p], vy = motion_[1][p], vz = motion_[2][p];
      change[tap][p] = product.change(vx, vy, vz);
      slope_change[0][tap][p] = product.slope_x_change(vx, vy, vz);
      slope_change[1][tap][p] = product.slope_y_change(vx, vy, vz);
      slope_change[2][tap][p] = product.slope_z_change(vx, vy, vz);
    }
  }

  const Geometry& geometry_;
  Axis<C> axes_[3];
  AxisRun<C> runs_[3];
  C motion_[3][kRun] = {};
};

}  // namespace handgrad::grid_sample
