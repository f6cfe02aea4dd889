// An image that is read between its pixels, wherever an op says: a sample of four corners, or the nearest pixel, what
// is around the image, and derivatives, for host and device. The arithmetic is that of torch's grid_sample on a CPU and
// of torchvision's fill, step by step, each rounded as it is there.
//
// Second derivatives are the first ones in dual numbers: N is float, double, or a Dual of these.
//
// In order of appearance: numbers; sizes; a sample and its gradients.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "math/dual_steps.h"
#include "math/fused.h"
#include "math/level.h"

namespace handgrad::image_sample {

// ---- numbers --------------------------------------------------------------------------------------------------------

using handgrad::fused_multiply_add;
template <class C>
HANDGRAD_MATH Dual<C> fused_multiply_add(Dual<C> a, Dual<C> b, Dual<C> c) {
  return a * b + c;
}

// ---- sizes ----------------------------------------------------------------------------------------------------------

struct ImageFrame {
  int64_t batch, channels, height, width;
  // Of the output.
  int64_t out_height, out_width;
  bool bilinear, filled;
};

// Between pixels of the image, whose centres are whole numbers.
template <class N>
struct Point {
  N x, y;
};

// ---- a sample -------------------------------------------------------------------------------------------------------

// The corners of a position, q = 2 dy + dx the pixel (row + dy, column + dx). The nearest pixel is corner 0, its weight
// 1.
template <class N>
struct ImageSample {
  int64_t row, column;
  // Bit q: corner q is a pixel of the image.
  unsigned corners;
  N weight[4], right, down;
  // The sum of the weights of those.
  N mask;

  HANDGRAD_MATH ImageSample(const ImageFrame& frame, const Point<N>& at) {
    using C = Plain<N>;
    const C x = value_of(at.x), y = value_of(at.y);
    const C height = static_cast<C>(frame.height), width = static_cast<C>(frame.width);
    row = column = 0, corners = 0, mask = right = down = N(0);
    for (int q = 0; q < 4; ++q) weight[q] = N(0);
    if (!frame.bilinear) {
      const C whole_x = rounded_to_even(x), whole_y = rounded_to_even(y);
      if (!(whole_x >= 0 && whole_x < width && whole_y >= 0 && whole_y < height)) return;
      row = static_cast<int64_t>(whole_y), column = static_cast<int64_t>(whole_x);
      corners = 1, weight[0] = mask = N(1);
      return;
    }
    if (!(x > -1 && x < width && y > -1 && y < height)) {
      // NaN stays; what is infinite or far is outside.
      if (x != x || y != y) {
        for (int q = 0; q < 4; ++q) weight[q] = N(std::numeric_limits<C>::quiet_NaN());
        mask = weight[0];
      }
      return;
    }
    const C low_x = rounded_down(x), low_y = rounded_down(y);
    row = static_cast<int64_t>(low_y), column = static_cast<int64_t>(low_x);
    right = at.x - N(low_x), down = at.y - N(low_y);
    const N left = N(1) - right, up = N(1) - down;
    weight[0] = product(up, left), weight[1] = product(up, right);
    weight[2] = product(down, left), weight[3] = product(down, right);
    const bool rows[2] = {row >= 0, row + 1 < frame.height}, columns[2] = {column >= 0, column + 1 < frame.width};
    for (int q = 0; q < 4; ++q) {
      if (!rows[q / 2] || !columns[q % 2]) continue;
      corners |= 1u << q;
      mask = mask + weight[q];
    }
  }

  HANDGRAD_MATH bool has(int q) const { return corners >> q & 1; }

  // What is read, corner q of which is pixel(q) where it is one.
  template <class Read>
  HANDGRAD_MATH N value(const ImageFrame& frame, const Read& pixel) const {
    if (!frame.bilinear) return has(0) ? pixel(0) : N(0);
    N sum = product(has(0) ? pixel(0) : N(0), weight[0]);
    for (int q = 1; q < 4; ++q) sum = fused_multiply_add(has(q) ? pixel(q) : N(0), weight[q], sum);
    return sum;
  }

  // The same with what is around the image.
  HANDGRAD_MATH N filled(const ImageFrame& frame, N value, N fill) const {
    if (!frame.filled) return value;
    if (!frame.bilinear) return has(0) ? value : fill;
    return product(value - fill, mask) + fill;
  }

  // How the result depends on corner q.
  HANDGRAD_MATH N share(const ImageFrame& frame, int q) const {
    return frame.filled && frame.bilinear ? weight[q] * mask : weight[q];
  }

  // ---- gradients ----------------------------------------------------------------------------------------------------

  // What a channel contributes to the gradients of the position. Differences of corners first: sums of what they are
  // taken of would have lost their last digits.
  template <class Read>
  HANDGRAD_MATH void add_of_position(const ImageFrame& frame, N grad, N fill, const Read& pixel, N& grad_x,
                                     N& grad_y) const {
    const N corner[4] = {has(0) ? pixel(0) : N(0), has(1) ? pixel(1) : N(0), has(2) ? pixel(2) : N(0),
                         has(3) ? pixel(3) : N(0)};
    N along_x = slope_x(corner), along_y = slope_y(corner);
    if (frame.filled) {
      const N seen[4] = {N(Plain<N>(has(0))), N(Plain<N>(has(1))), N(Plain<N>(has(2))), N(Plain<N>(has(3)))};
      const N own = value(frame, pixel) - fill;
      along_x = along_x * mask + own * slope_x(seen), along_y = along_y * mask + own * slope_y(seen);
    }
    grad_x = grad_x + grad * along_x, grad_y = grad_y + grad * along_y;
  }
  HANDGRAD_MATH N slope_x(const N (&corner)[4]) const {
    return (N(1) - down) * (corner[1] - corner[0]) + down * (corner[3] - corner[2]);
  }
  HANDGRAD_MATH N slope_y(const N (&corner)[4]) const {
    return (N(1) - right) * (corner[2] - corner[0]) + right * (corner[3] - corner[1]);
  }
};

}  // namespace handgrad::image_sample
