// Where an output pixel is read, for host and device, and derivatives of it: the arithmetic of torchvision's grid on a
// CPU, step by step, each rounded as it is there. What is read there: math/image_sample.h.
//
// Second derivatives are the first ones in dual numbers: N is float, double, or a Dual of these.
//
// In order of appearance: the frame; a matrix; a position; the gradient of the matrix.
#pragma once

#include "math/image_sample.h"

namespace handgrad::warp {

using namespace image_sample;

// ---- the frame ------------------------------------------------------------------------------------------------------

// Sizes, and how positions are counted.
struct Frame : ImageFrame {
  bool centered, projective;

  // Output pixel j of `size` along an axis, as the matrix is given it.
  template <class C>
  HANDGRAD_MATH C base(int64_t j, int64_t size) const {
    return centered ? static_cast<C>(j) - static_cast<C>(size - 1) / 2 : static_cast<C>(j) + C(0.5);
  }
};

// ---- a matrix -------------------------------------------------------------------------------------------------------

// Its first two rows divided by half of the image's width and height.
template <class N>
struct Matrix {
  N of[9];
};

// (x t0 + y t1) + t2, as torch's product of matrices has it.
template <class N>
HANDGRAD_MATH N row_at(const N* row, N x, N y) {
  return (product(x, row[0]) + product(y, row[1])) + row[2];
}

// ---- a position -----------------------------------------------------------------------------------------------------

template <class N>
struct Position : Point<N> {
  // What was divided by.
  N divisor;

  HANDGRAD_MATH Position() = default;
  HANDGRAD_MATH Position(const Frame& frame, const Matrix<N>& matrix, Plain<N> base_x, Plain<N> base_y) {
    using C = Plain<N>;
    N u = row_at(matrix.of, N(base_x), N(base_y)), v = row_at(matrix.of + 3, N(base_x), N(base_y));
    divisor = N(1);
    if (frame.projective) {
      divisor = row_at(matrix.of + 6, N(base_x), N(base_y));
      u = u / divisor, v = v / divisor;
    }
    if (!frame.centered) u = u - N(1), v = v - N(1);
    this->x = fused_multiply_add(u + N(1), N(static_cast<C>(frame.width) / 2), N(C(-0.5)));
    this->y = fused_multiply_add(v + N(1), N(static_cast<C>(frame.height) / 2), N(C(-0.5)));
  }
};

// ---- the gradient of the matrix -------------------------------------------------------------------------------------

// What an output pixel contributes to the gradient of the matrix.
template <class N>
HANDGRAD_MATH void pull_back(const Frame& frame, const Position<N>& at, Plain<N> base_x, Plain<N> base_y, N grad_x,
                             N grad_y, double (&sums)[9]) {
  using C = Plain<N>;
  const N u = grad_x / at.divisor, v = grad_y / at.divisor;
  N rows[3] = {u, v, N(0)};
  if (frame.projective) {
    const C shift_x = frame.centered ? static_cast<C>(frame.width) / 2 : C(0);
    const C shift_y = frame.centered ? static_cast<C>(frame.height) / 2 : C(0);
    rows[2] = N(0) - (u * (at.x + N(C(0.5) - shift_x)) + v * (at.y + N(C(0.5) - shift_y)));
  }
  for (int r = 0; r < 3; ++r) {
    const double row = static_cast<double>(wanted_of(rows[r]));
    sums[3 * r] += row * static_cast<double>(base_x);
    sums[3 * r + 1] += row * static_cast<double>(base_y);
    sums[3 * r + 2] += row;
  }
}

}  // namespace handgrad::warp
