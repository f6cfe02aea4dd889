// Derivatives on the CPU: of plain numbers the gradients, of dual ones what is differentiated along their direction.
//
// A pixel of the output gives to the corners that it is read from. Each channel of each image is one thread's, which
// goes through the output in its order, so that every sum has one order; rows have sums of their own for the matrix.
#pragma once

#include <vector>

#include "cpu/parallel.h"
#include "math/convert.h"
#include "warp_host.h"

namespace handgrad::warp {

template <class T>
struct Operands {
  View<const T, 4> image, direction;  // [N, C, H, W]
  View<const T, 4> grad_output;       // [N, C, height, width]
  View<T, 4> grad_grad_output;        // [N, C, height, width]
  View<T, 4> grad_image;              // [N, C, H, W]
  View<double, 3> grad_matrix;        // [N, 2 or 3, 3]
  const std::vector<double>& fill;
};

// N is Compute<T> or a Dual of it.
template <class T, class N>
class Differentiator {
 public:
  using C = Plain<N>;

  Differentiator(const Frame& frame, const MatrixTable& table, const Operands<T>& operands)
      : frame_(frame), table_(table), operands_(operands) {}

  void run() const {
    if (operands_.grad_grad_output) along_directions();
    if (operands_.grad_image) of_image();
    if (operands_.grad_matrix) of_matrix();
  }

 private:
  const Frame frame_;
  const MatrixTable& table_;
  const Operands<T>& operands_;

  // body(j, position, base of x and y) for the pixels of row i.
  template <class Body>
  void for_each_pixel(const Matrix<N>& matrix, int64_t i, const Body& body) const {
    const C y = frame_.base<C>(i, frame_.out_height);
    for (int64_t j = 0; j < frame_.out_width; ++j) {
      const C x = frame_.base<C>(j, frame_.out_width);
      body(j, Position<N>(frame_, matrix, x, y), x, y);
    }
  }

  N pixel(int64_t n, int64_t c, int64_t row, int64_t column) const {
    const C value = widen(*operands_.image.at(n, c, row, column));
    if constexpr (std::is_same_v<N, C>) {
      return value;
    } else {
      return {value, operands_.direction ? widen(*operands_.direction.at(n, c, row, column)) : C(0)};
    }
  }
  auto corners(int64_t n, int64_t c, const Sample<N>& sample) const {
    return [this, n, c, &sample](int q) { return pixel(n, c, sample.row + q / 2, sample.column + q % 2); };
  }

  void along_directions() const {
    const int64_t rows = frame_.out_height;
    parallel_for(frame_.batch * rows, frame_.channels * frame_.out_width, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const int64_t n = index / rows, i = index - n * rows;
        for_each_pixel(table_.matrix<N>(frame_, n), i, [&](int64_t j, const Position<N>& at, C, C) {
          const Sample<N> sample(frame_, at);
          for (int64_t c = 0; c < frame_.channels; ++c) {
            const N value = sample.value(frame_, corners(n, c, sample));
            const N made = sample.filled(frame_, value, N(static_cast<C>(fill_of(operands_.fill, c))));
            *operands_.grad_grad_output.at(n, c, i, j) = narrow<T>(wanted_of(made));
          }
        });
      }
    });
  }

  void of_image() const {
    const int64_t pixels = frame_.height * frame_.width;
    parallel_for(frame_.batch * frame_.channels, frame_.out_height * frame_.out_width, [&](int64_t begin, int64_t end) {
      std::vector<C> plane(static_cast<size_t>(pixels));
      for (int64_t index = begin; index < end; ++index) {
        const int64_t n = index / frame_.channels, c = index - n * frame_.channels;
        std::fill(plane.begin(), plane.end(), C(0));
        give_back(n, c, plane.data());
        for (int64_t row = 0; row < frame_.height; ++row) {
          store_run(plane.data() + row * frame_.width, frame_.width, operands_.grad_image.at(n, c, row, 0),
                    operands_.grad_image.strides[3]);
        }
      }
    });
  }

  void give_back(int64_t n, int64_t c, C* plane) const {
    const Matrix<N> matrix = table_.matrix<N>(frame_, n);
    for (int64_t i = 0; i < frame_.out_height; ++i) {
      for_each_pixel(matrix, i, [&](int64_t j, const Position<N>& at, C, C) {
        const Sample<N> sample(frame_, at);
        if (!sample.corners) return;
        const N grad(widen(*operands_.grad_output.at(n, c, i, j)));
        C* corner = plane + sample.row * frame_.width + sample.column;
        for (int q = 0; q < 4; ++q) {
          if (sample.has(q)) corner[q / 2 * frame_.width + q % 2] += wanted_of(sample.share(frame_, q) * grad);
        }
      });
    }
  }

  void of_matrix() const {
    struct Sums {
      double of[9];
    };
    const int64_t rows = frame_.out_height;
    std::vector<Sums> of_rows(static_cast<size_t>(frame_.batch * rows), Sums{});
    parallel_for(frame_.batch * rows, frame_.channels * frame_.out_width, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; frame_.bilinear && index < end; ++index) {
        const int64_t n = index / rows, i = index - n * rows;
        add_row(n, i, of_rows[static_cast<size_t>(index)].of);
      }
    });
    for (int64_t n = 0; n < frame_.batch; ++n) {
      double total[9] = {};
      for (int64_t i = 0; i < rows; ++i) {
        for (int k = 0; k < 9; ++k) total[k] += of_rows[static_cast<size_t>(n * rows + i)].of[k];
      }
      for (int64_t k = 0; k < 3 * table_.rows(); ++k) *operands_.grad_matrix.at(n, k / 3, k % 3) = total[k];
    }
  }

  void add_row(int64_t n, int64_t i, double (&sums)[9]) const {
    for_each_pixel(table_.matrix<N>(frame_, n), i, [&](int64_t j, const Position<N>& at, C x, C y) {
      const Sample<N> sample(frame_, at);
      if (!sample.corners) return;
      N grad_x(0), grad_y(0);
      for (int64_t c = 0; c < frame_.channels; ++c) {
        sample.add_of_position(frame_, N(widen(*operands_.grad_output.at(n, c, i, j))),
                               N(static_cast<C>(fill_of(operands_.fill, c))), corners(n, c, sample), grad_x, grad_y);
      }
      pull_back(frame_, at, x, y, grad_x, grad_y, sums);
    });
  }
};

}  // namespace handgrad::warp
