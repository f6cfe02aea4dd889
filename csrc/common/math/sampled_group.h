// Groups of channels that look at points of their own: a query's output is a sum of bilinear samples, each of the
// group's channels in one feature map, and each times a factor.
//
// An op says where points are: its geometry is a SampledGeometry with
//
//   using UsualChannels = std::integer_sequence<int64_t, 32>;  // of a group, multiples of 16: with loops of their own
//                                                              // on the CPU
//
//   template <class C>
//   HANDGRAD_MATH MyPoints<C> points_of(int64_t level, int64_t query) const;
//
// and that has `GroupSample<C> sample(int64_t p, C x, C y, C factor) const`, from the numbers of point p.
#pragma once

#include <utility>

#include "math/bilinear.h"

namespace handgrad {

// A feature map, and where it begins among the positions of all maps.
struct Level {
  int32_t height, width;
  int64_t start;
};

// A direction of a sample: of the two numbers that its point is made of, and of its factor.
template <class C>
struct GroupMotion {
  C x, y, factor;
};

// A sample, times a factor. How many pixels the point moves when its two numbers do is the same along all of a map.
template <class C>
struct GroupSample : BilinearSample<C> {
  using Base = BilinearSample<C>;
  C factor, pixels_y, pixels_x;

  HANDGRAD_MATH GroupSample(const Level& level, C row, C column, C factor, C pixels_y, C pixels_x)
      : Base(row, column, level.height, level.width), factor(factor), pixels_y(pixels_y), pixels_x(pixels_x) {}

  HANDGRAD_MATH C weight(int q) const { return Base::weight(q, factor); }
  HANDGRAD_MATH C weight_change(int q, const GroupMotion<C>& v) const {
    return Base::weight_change(q, factor, pixels_y * v.y, pixels_x * v.x, v.factor);
  }

  // The pixel of corner q among all positions.
  HANDGRAD_MATH int64_t position(const Level& level, int q) const {
    return level.start + (this->row + q / 2) * level.width + this->column + q % 2;
  }

  // ---- backward: sums[q] is the sum over the group's channels of grad_output times corner q -------------------------

  HANDGRAD_MATH C grad_point_x(const C (&sums)[4]) const { return pixels_x * this->grad_x(factor, sums); }
  HANDGRAD_MATH C grad_point_y(const C (&sums)[4]) const { return pixels_y * this->grad_y(factor, sums); }
  HANDGRAD_MATH C grad_of_factor(const C (&sums)[4]) const { return this->grad_factor(sums); }

  // ---- double backward: of_value as above, of_v with the corners of grad_grad_value ---------------------------------

  HANDGRAD_MATH C second_grad_point_x(const GroupMotion<C>& v, const C (&of_value)[4], const C (&of_v)[4]) const {
    return pixels_x * this->second_grad_x(factor, pixels_y * v.y, v.factor, of_value, of_v);
  }
  HANDGRAD_MATH C second_grad_point_y(const GroupMotion<C>& v, const C (&of_value)[4], const C (&of_v)[4]) const {
    return pixels_y * this->second_grad_y(factor, pixels_x * v.x, v.factor, of_value, of_v);
  }
  HANDGRAD_MATH C second_grad_of_factor(const GroupMotion<C>& v, const C (&of_value)[4], const C (&of_v)[4]) const {
    return this->second_grad_factor(pixels_y * v.y, pixels_x * v.x, of_value, of_v);
  }
};

// The sizes of a call: `groups` of `channels` each, of which each query looks at `points` points of each level.
template <int64_t MostLevels>
struct SampledGeometry {
  static constexpr int64_t kMostLevels = MostLevels;

  // The op's name and that of what says where points are, for error messages of the host.
  const char *op, *coordinates_name;
  int64_t batch, positions, groups, channels;  // of the value
  int64_t queries, level_count, points;
  Level levels[MostLevels];
  // Whether every position belongs to a level.
  bool covers_all;

  // What a query and group looks at: points innermost, then levels.
  HANDGRAD_MATH int64_t samples() const { return level_count * points; }
};

}  // namespace handgrad
