// The weights of a Gaussian window along one axis and their derivatives with respect to sigma; the mirror behind a
// border; and how a number becomes a level. Weights are even, so tap j stands for both pixels j away.
#pragma once

#include "math/scalar_math.h"

namespace handgrad::gaussian_blur {

// A filter of one axis: the weights, their first and second derivatives, and these times the direction of sigma that
// something is differentiated along.
enum Filter : int32_t { kValue, kSlope, kCurvature, kSlopeAlong, kCurvatureAlong, kFilters };

// Weights e_j / sum of e, of e_j = exp(-(j / sigma)^2 / 2). The sums of e are added up tap by tap, from 0 on, so that
// they are the same numbers everywhere.
struct Gaussian {
  double sigma, total = 0, squares = 0, fourths = 0;

  HANDGRAD_MATH explicit Gaussian(double sigma) : sigma(sigma) {}

  // Of a sigma of 0, or of one whose neighbours underflow, all of the weight is in the middle.
  HANDGRAD_MATH double exponential(int64_t j) const {
    const double distance = static_cast<double>(j) / sigma;
    return j == 0 ? 1.0 : exp(-0.5 * distance * distance);
  }
  HANDGRAD_MATH void add(int64_t j, double e) {
    const double square = static_cast<double>(j * j), both = j == 0 ? e : e + e;
    total += both;
    squares += rounded_product(both, square);
    fourths += rounded_product(rounded_product(both, square), square);
  }
  // Once all are added. With m the mean of j^2 and t = (j^2 - m) / sigma^2: w' = w t / sigma and
  // w'' = w (t^2 - 3 t - var(j^2) / sigma^4) / sigma^2.
  HANDGRAD_MATH double weight(int64_t j, double e, int32_t order) const {
    const double w = e / total, mean = squares / total, variance = sigma * sigma;
    if (order == 0) return w;
    // What underflows has no slope either, where the quotients below would be 0 / 0.
    if (mean == 0 || w == 0) return 0;
    const double t = (static_cast<double>(j * j) - mean) / variance;
    if (order == 1) return w * t / sigma;
    const double spread = (fourths / total - mean * mean) / variance / variance;
    return w * (t * t - 3 * t - spread) / variance;
  }
};

// The pixel that is seen at place i, up to size - 1 before the first or behind the last.
HANDGRAD_MATH int64_t mirrored(int64_t i, int64_t size) {
  const int64_t from_first = i < 0 ? -i : i;
  return from_first < size ? from_first : 2 * (size - 1) - from_first;
}

// The nearest level of a number from 0 to 255, the even one of two: 2^23 more has no bits behind the point.
HANDGRAD_MATH uint8_t level_of(float x) {
  return static_cast<uint8_t>(detail::bits_as<uint32_t>(x + 8388608.0f) & 0xffu);
}

}  // namespace handgrad::gaussian_blur
