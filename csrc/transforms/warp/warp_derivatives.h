// The gradient of the matrix on the CPU; the rest is cpu/image_derivatives.h's. Rows have sums of their own, which are
// added in their order.
#pragma once

#include <vector>

#include "cpu/image_derivatives.h"
#include "warp_host.h"

namespace handgrad::warp {

struct MatrixSums {
  double of[9];
};

template <class N, class Differentiator>
void add_row(const Frame& frame, const ImagePlaces<N>& places, const Differentiator& differentiator, int64_t n,
             int64_t i, double (&sums)[9]) {
  using C = Plain<N>;
  for (int64_t j = 0; j < frame.out_width; ++j) {
    const Position<N> at = places.point(i, j);
    Point<N> grad{N(0), N(0)};
    if (!differentiator.of_point(n, i, j, at, grad)) continue;
    pull_back(frame, at, frame.base<C>(j, frame.out_width), frame.base<C>(i, frame.out_height), grad.x, grad.y, sums);
  }
}

template <class N, class Differentiator>
void differentiate_matrices(const Places& places, const Differentiator& differentiator,
                            const View<double, 3>& grad_matrix) {  // [N, 2 or 3, 3]
  const Frame& frame = places.frame;
  const int64_t rows = frame.out_height;
  std::vector<MatrixSums> of_rows(static_cast<size_t>(frame.batch * rows), MatrixSums{});
  if (frame.bilinear) {
    differentiator.for_each_row([&](int64_t n, int64_t i) {
      add_row<N>(frame, places.of_image<N>(n), differentiator, n, i, of_rows[static_cast<size_t>(n * rows + i)].of);
    });
  }
  for (int64_t n = 0; n < frame.batch; ++n) {
    double total[9] = {};
    for (int64_t i = 0; i < rows; ++i) {
      for (int k = 0; k < 9; ++k) total[k] += of_rows[static_cast<size_t>(n * rows + i)].of[k];
    }
    for (int64_t k = 0; k < 3 * places.table.rows(); ++k) *grad_matrix.at(n, k / 3, k % 3) = total[k];
  }
}

}  // namespace handgrad::warp
