// Bilinear interpolation at a sampling point between pixels, times a factor (a mask, a weight), with derivatives;
// outside the image are zeros.
//
// Everything that mixes channels is a sum over corners, which the caller takes: corner q = 2 dy + dx is the pixel
// (row + dy, column + dx). What is left are four numbers per derivative, the same for all channels.
#pragma once

#include <cstdint>
#include <limits>

#include "math/scalar_math.h"

namespace handgrad {

template <class C>
struct BilinearSample {
  int64_t row, column;
  // Bit q: corner q is a pixel of the image. All others are zeros.
  unsigned corners;
  // The weights of the corners, and their derivatives with respect to the point; the two second derivatives not here
  // are 0.
  C value[4], d_y[4], d_x[4], d_yx[4];

  HANDGRAD_MATH BilinearSample(C y, C x, int64_t height, int64_t width) {
    row = column = 0;
    corners = 0;
    // NaN is kept: weights that are NaN, on corners that are zeros. More than one pixel outside the image contributes
    // zero, with derivatives of zero. So no float that an integer cannot hold is ever made one.
    const bool is_nan = y != y || x != x;
    const bool inside = y >= C(-1) && y < static_cast<C>(height) && x >= C(-1) && x < static_cast<C>(width);
    if (!inside) {
      const C weight = is_nan ? std::numeric_limits<C>::quiet_NaN() : C(0);
      for (int q = 0; q < 4; ++q) value[q] = d_y[q] = d_x[q] = d_yx[q] = weight;
      return;
    }
    // y + 1 is not negative, so that cutting its fraction is rounding down.
    row = static_cast<int64_t>(y + 1) - 1;
    column = static_cast<int64_t>(x + 1) - 1;
    // Where y + 1 was rounded up to a whole number.
    if (static_cast<C>(row) > y) --row;
    if (static_cast<C>(column) > x) --column;
    const C down = y - static_cast<C>(row), right = x - static_cast<C>(column), up = 1 - down, left = 1 - right;
    value[0] = up * left, value[1] = up * right, value[2] = down * left, value[3] = down * right;
    d_y[0] = -left, d_y[1] = -right, d_y[2] = left, d_y[3] = right;
    d_x[0] = -up, d_x[1] = up, d_x[2] = -down, d_x[3] = down;
    d_yx[0] = 1, d_yx[1] = -1, d_yx[2] = -1, d_yx[3] = 1;
    const bool rows[2] = {row >= 0, row + 1 < height}, columns[2] = {column >= 0, column + 1 < width};
    for (int q = 0; q < 4; ++q) corners |= static_cast<unsigned>(rows[q / 2] && columns[q % 2]) << q;
  }

  HANDGRAD_MATH bool has(int q) const { return corners >> q & 1; }

  HANDGRAD_MATH static C dot(const C (&weights)[4], const C (&sums)[4]) {
    return weights[0] * sums[0] + weights[1] * sums[1] + weights[2] * sums[2] + weights[3] * sums[3];
  }

  // How the sample depends on corner q.
  HANDGRAD_MATH C weight(int q, C factor) const { return factor * value[q]; }
  // How weight(q) changes when the point and the factor move by (vy, vx) and vf.
  HANDGRAD_MATH C weight_change(int q, C factor, C vy, C vx, C vf) const {
    return vf * value[q] + factor * (vy * d_y[q] + vx * d_x[q]);
  }

  // ---- backward: sums[q] is the sum over channels of the sample's gradient times corner q ---------------------------

  HANDGRAD_MATH C grad_y(C factor, const C (&sums)[4]) const { return factor * dot(d_y, sums); }
  HANDGRAD_MATH C grad_x(C factor, const C (&sums)[4]) const { return factor * dot(d_x, sums); }
  HANDGRAD_MATH C grad_factor(const C (&sums)[4]) const { return dot(value, sums); }

  // ---- double backward: of_input as above, of_v with the corners of grad_grad_input ---------------------------------

  HANDGRAD_MATH C second_grad_y(C factor, C vx, C vf, const C (&of_input)[4], const C (&of_v)[4]) const {
    return vf * dot(d_y, of_input) + factor * (dot(d_y, of_v) + vx * dot(d_yx, of_input));
  }
  HANDGRAD_MATH C second_grad_x(C factor, C vy, C vf, const C (&of_input)[4], const C (&of_v)[4]) const {
    return vf * dot(d_x, of_input) + factor * (dot(d_x, of_v) + vy * dot(d_yx, of_input));
  }
  HANDGRAD_MATH C second_grad_factor(C vy, C vx, const C (&of_input)[4], const C (&of_v)[4]) const {
    return dot(value, of_v) + vy * dot(d_y, of_input) + vx * dot(d_x, of_input);
  }
};

}  // namespace handgrad
