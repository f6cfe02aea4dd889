// One sample of deformable convolution: bilinear interpolation at a place between pixels, with its derivatives.
// Derivation: docs/layers/deform_conv2d.md.
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
  // The weights of the corners, and their derivatives by the place; the two second derivatives not here are 0.
  C value[4], by_y[4], by_x[4], by_yx[4];

  HANDGRAD_MATH BilinearSample(C y, C x, int64_t height, int64_t width) {
    row = column = 0;
    corners = 0;
    // NaN is kept: weights that are NaN, on corners that are zeros. A place further out than a pixel is no place:
    // zero, with derivatives of zero. So no float that an integer cannot hold is ever made one.
    const bool lost = y != y || x != x;
    const bool inside = y >= C(-1) && y < static_cast<C>(height) && x >= C(-1) && x < static_cast<C>(width);
    if (!inside) {
      const C weight = lost ? std::numeric_limits<C>::quiet_NaN() : C(0);
      for (int q = 0; q < 4; ++q) value[q] = by_y[q] = by_x[q] = by_yx[q] = weight;
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
    by_y[0] = -left, by_y[1] = -right, by_y[2] = left, by_y[3] = right;
    by_x[0] = -up, by_x[1] = up, by_x[2] = -down, by_x[3] = down;
    by_yx[0] = 1, by_yx[1] = -1, by_yx[2] = -1, by_yx[3] = 1;
    const bool rows[2] = {row >= 0, row + 1 < height}, columns[2] = {column >= 0, column + 1 < width};
    for (int q = 0; q < 4; ++q) corners |= static_cast<unsigned>(rows[q / 2] && columns[q % 2]) << q;
  }

  HANDGRAD_MATH bool has(int q) const { return corners >> q & 1; }

  HANDGRAD_MATH static C dot(const C (&weights)[4], const C (&sums)[4]) {
    return weights[0] * sums[0] + weights[1] * sums[1] + weights[2] * sums[2] + weights[3] * sums[3];
  }

  // How a column depends on corner q.
  HANDGRAD_MATH C weight(int q, C mask) const { return mask * value[q]; }
  // How weight(q) changes when the place and the mask move by (vy, vx) and vm.
  HANDGRAD_MATH C moved_weight(int q, C mask, C vy, C vx, C vm) const {
    return vm * value[q] + mask * (vy * by_y[q] + vx * by_x[q]);
  }

  // ---- backward: sums[q] is the sum over channels of the column's gradient times corner q ---------------------------

  HANDGRAD_MATH C grad_y(C mask, const C (&sums)[4]) const { return mask * dot(by_y, sums); }
  HANDGRAD_MATH C grad_x(C mask, const C (&sums)[4]) const { return mask * dot(by_x, sums); }
  HANDGRAD_MATH C grad_mask(const C (&sums)[4]) const { return dot(value, sums); }

  // ---- double backward ----------------------------------------------------------------------------------------------
  // of_input: as above. of_moved: with the corners of grad_grad_input. of_weight: with the gradient that
  // grad_grad_weight in the weight's place would give the column.

  HANDGRAD_MATH C grad_y_twice(C mask, C vx, C vm, const C (&of_input)[4], const C (&of_moved)[4],
                               const C (&of_weight)[4]) const {
    return vm * dot(by_y, of_input) + mask * (dot(by_y, of_moved) + vx * dot(by_yx, of_input) + dot(by_y, of_weight));
  }
  HANDGRAD_MATH C grad_x_twice(C mask, C vy, C vm, const C (&of_input)[4], const C (&of_moved)[4],
                               const C (&of_weight)[4]) const {
    return vm * dot(by_x, of_input) + mask * (dot(by_x, of_moved) + vy * dot(by_yx, of_input) + dot(by_x, of_weight));
  }
  HANDGRAD_MATH C grad_mask_twice(C vy, C vx, const C (&of_input)[4], const C (&of_moved)[4],
                                  const C (&of_weight)[4]) const {
    return dot(value, of_moved) + vy * dot(by_y, of_input) + vx * dot(by_x, of_input) + dot(value, of_weight);
  }
};

}  // namespace handgrad
