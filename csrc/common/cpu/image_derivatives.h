// Derivatives of an image that is read between its pixels, on the CPU: of plain numbers the gradients, of dual ones
// what is differentiated along their direction. What is of an op's own is the way from a point to what it depends on.
//
// A pixel of the output gives to the corners that it is read from. Each channel of each image is one thread's, which
// goes through the output in its order, so that every sum has one order.
#pragma once

#include <vector>

#include "abi/images.h"
#include "abi/view.h"
#include "cpu/parallel.h"
#include "math/convert.h"
#include "math/image_sample.h"

namespace handgrad::image_sample {

template <class T>
struct ImageOperands {
  View<const T, 4> image, direction;  // [N, C, H, W]
  View<const T, 4> grad_output;       // [N, C, height, width]
  const std::vector<double>& fill;
};

// N is Compute<T> or a Dual of it.
template <class T, class N, class Places>
class ImageDifferentiator {
 public:
  using C = Plain<N>;

  ImageDifferentiator(const ImageFrame& frame, const Places& places, const ImageOperands<T>& operands)
      : frame_(frame), places_(places), operands_(operands) {}

  // The tangent of the output.
  void along_directions(const View<T, 4>& grad_grad_output) const {  // [N, C, height, width]
    for_each_row([&](int64_t n, int64_t i) {
      const auto of_image = places_.template of_image<N>(n);
      for (int64_t j = 0; j < frame_.out_width; ++j) {
        const ImageSample<N> sample(frame_, of_image.point(i, j));
        for (int64_t c = 0; c < frame_.channels; ++c) {
          const N value = sample.value(frame_, corners(n, c, sample));
          *grad_grad_output.at(n, c, i, j) = narrow<T>(wanted_of(sample.filled(frame_, value, fill(c))));
        }
      }
    });
  }

  void of_image(const View<T, 4>& grad_image) const {  // [N, C, H, W]
    const int64_t pixels = frame_.height * frame_.width;
    parallel_for(frame_.batch * frame_.channels, frame_.out_height * frame_.out_width, [&](int64_t begin, int64_t end) {
      // In double, as one pixel may be read by many.
      std::vector<double> plane(static_cast<size_t>(pixels));
      std::vector<C> sums(static_cast<size_t>(frame_.width));
      for (int64_t index = begin; index < end; ++index) {
        const int64_t n = index / frame_.channels, c = index - n * frame_.channels;
        std::fill(plane.begin(), plane.end(), 0.0);
        give_back(n, c, plane.data());
        for (int64_t row = 0; row < frame_.height; ++row) {
          const double* from = plane.data() + row * frame_.width;
          for (int64_t k = 0; k < frame_.width; ++k) sums[static_cast<size_t>(k)] = static_cast<C>(from[k]);
          store_run(sums.data(), frame_.width, grad_image.at(n, c, row, 0), grad_image.strides[3]);
        }
      }
    });
  }

  // body(n, i) for the rows of all outputs, split over threads.
  template <class Body>
  void for_each_row(const Body& body) const {
    const int64_t rows = frame_.out_height;
    parallel_for(frame_.batch * rows, frame_.channels * frame_.out_width, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) body(index / rows, index % rows);
    });
  }

  // Adds the gradient of the point that pixel (i, j) is read at: all channels'. Whether there is any.
  bool of_point(int64_t n, int64_t i, int64_t j, const Point<N>& at, Point<N>& grad) const {
    const ImageSample<N> sample(frame_, at);
    if (!sample.corners || !frame_.bilinear) return false;
    for (int64_t c = 0; c < frame_.channels; ++c) {
      sample.add_of_position(frame_, N(widen(*operands_.grad_output.at(n, c, i, j))), fill(c), corners(n, c, sample),
                             grad.x, grad.y);
    }
    return true;
  }

 private:
  const ImageFrame frame_;
  const Places& places_;
  const ImageOperands<T>& operands_;

  N fill(int64_t c) const { return N(static_cast<C>(fill_of(operands_.fill, c))); }

  N pixel(int64_t n, int64_t c, int64_t row, int64_t column) const {
    const C value = widen(*operands_.image.at(n, c, row, column));
    if constexpr (std::is_same_v<N, C>) {
      return value;
    } else {
      return {value, operands_.direction ? widen(*operands_.direction.at(n, c, row, column)) : C(0)};
    }
  }
  auto corners(int64_t n, int64_t c, const ImageSample<N>& sample) const {
    return [this, n, c, &sample](int q) { return pixel(n, c, sample.row + q / 2, sample.column + q % 2); };
  }

  void give_back(int64_t n, int64_t c, double* plane) const {
    const auto of_image = places_.template of_image<N>(n);
    for (int64_t i = 0; i < frame_.out_height; ++i) {
      for (int64_t j = 0; j < frame_.out_width; ++j) {
        const ImageSample<N> sample(frame_, of_image.point(i, j));
        if (!sample.corners) continue;
        const N grad(widen(*operands_.grad_output.at(n, c, i, j)));
        double* corner = plane + sample.row * frame_.width + sample.column;
        for (int q = 0; q < 4; ++q) {
          if (sample.has(q)) corner[q / 2 * frame_.width + q % 2] += double{wanted_of(sample.share(frame_, q) * grad)};
        }
      }
    }
  }
};

}  // namespace handgrad::image_sample
