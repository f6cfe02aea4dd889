// One axis of a resized crop: which pixels an output pixel is made of, and what they weigh; and how weights of uint8
// images become integers. Derivation: docs/transforms/resized_crop.md.
//
// Weights are computed in double, each step rounded by itself: a fused multiplication and addition could round another
// way, and the integers made of them must be the same on every processor.
#pragma once

#include <cstdint>

#include "math/scalar_math.h"

namespace handgrad::resized_crop {

// As the schema counts them.
enum class Interpolation : int32_t { nearest = 0, nearest_exact = 1, bilinear = 2, bicubic = 3 };

// The pixels first, first + 1, … of the crop.
struct Taps {
  int32_t first, count;
};

// Which of all outputs of an axis is number o of those that are made, `outputs` from `begin` on, which may be flipped;
// and the other way round.
HANDGRAD_MATH int64_t whole_index(int64_t o, int64_t begin, int64_t outputs, bool flip) {
  return begin + (flip ? outputs - 1 - o : o);
}
HANDGRAD_MATH int64_t made_index(int64_t i, int64_t begin, int64_t outputs, bool flip) {
  return flip ? outputs - 1 - (i - begin) : i - begin;
}

struct Axis {
  Interpolation interpolation;
  bool antialias;
  // Pixels of the crop, and of what it is resized to; of these, `outputs` from `begin` on are made.
  int32_t size, output, begin, outputs;
  // Pixels of the crop for one of the output; half the width of the filter; and the most taps there can be.
  double scale, support;
  int32_t most_taps;

  HANDGRAD_MATH Axis(Interpolation interpolation, bool antialias, int32_t size, int32_t output, int32_t begin,
                     int32_t outputs)
      : interpolation(interpolation),
        antialias(antialias && is_smooth(interpolation)),
        size(size),
        output(output),
        begin(begin),
        outputs(outputs),
        scale(static_cast<double>(size) / static_cast<double>(output)),
        support(interpolation == Interpolation::bicubic ? 2 : 1),
        most_taps(is_smooth(interpolation) ? static_cast<int32_t>(2 * support) : 1) {
    if (!this->antialias) return;
    if (scale >= 1) support = support * scale;
    const int32_t whole = static_cast<int32_t>(support);
    most_taps = 2 * (whole + (static_cast<double>(whole) < support)) + 1;
  }

  // The taps of output pixel i, their weights in weights[0], …; `largest` becomes the largest weight on the way, if it
  // is larger. (Not of those that are left in the end: the precision follows from it, and torch's does so.)
  HANDGRAD_MATH Taps fill(int32_t i, double* weights, double& largest) const {
    if (!is_smooth(interpolation)) {
      weights[0] = 1;
      largest = 1;
      return {nearest(i), 1};
    }
    return antialias ? fill_antialiased(i, weights, largest) : fill_interpolated(i, weights, largest);
  }

  static HANDGRAD_MATH bool is_smooth(Interpolation interpolation) {
    return interpolation == Interpolation::bilinear || interpolation == Interpolation::bicubic;
  }

 private:
  // In float, as torch computes it for all types but one.
  HANDGRAD_MATH int32_t nearest(int32_t i) const {
    const float step = static_cast<float>(size) / static_cast<float>(output);
    float point = rounded_product(step, static_cast<float>(i));
    if (interpolation == Interpolation::nearest_exact) {
      const float centre = rounded_product(step, static_cast<float>(i) + 0.5f) - 0.5f;
      point = (centre < 0 ? 0.0f : centre) + 0.5f;
    }
    const int32_t index = static_cast<int32_t>(point);
    return index < size - 1 ? index : size - 1;
  }

  // The triangle, or the cubic of Keys: with a = -1/2 where it is widened, with -3/4 where it is not.
  HANDGRAD_MATH double filter(double x) const {
    x = x < 0 ? -x : x;
    if (interpolation == Interpolation::bilinear) return x < 1 ? 1 - x : 0.0;
    const double a = antialias ? -0.5 : -0.75;
    if (x < 1) {
      const double inner = rounded_product(a + 2, x) - (a + 3);
      return rounded_product(inner * x, x) + 1;
    }
    if (x >= 2) return 0;
    const double inner = rounded_product(a, x) - 5 * a, outer = rounded_product(inner, x) + 8 * a;
    return rounded_product(outer, x) - 4 * a;
  }

  HANDGRAD_MATH Taps fill_antialiased(int32_t i, double* weights, double& largest) const {
    const double centre = rounded_product(scale, static_cast<double>(i) + 0.5);
    const double inverse = scale >= 1 ? 1 / scale : 1.0;
    const double low = centre - support + 0.5, high = centre + support + 0.5;
    const int32_t first = low > 0 ? static_cast<int32_t>(low) : 0;
    const int32_t end = high < static_cast<double>(size) ? static_cast<int32_t>(high) : size;
    const int32_t wide = end - first, count = wide < most_taps ? wide : most_taps;
    double total = 0;
    for (int32_t k = 0; k < count; ++k) {
      weights[k] = filter(rounded_product(static_cast<double>(k + first) - centre + 0.5, inverse));
      total += weights[k];
    }
    for (int32_t k = 0; k < count; ++k) {
      if (total != 0) weights[k] /= total;
      if (weights[k] > largest) largest = weights[k];
    }
    return {first, count};
  }

  // Two or four taps around a point; those beyond the crop are taken at its edge.
  HANDGRAD_MATH Taps fill_interpolated(int32_t i, double* weights, double& largest) const {
    double point = rounded_product(scale, static_cast<double>(i) + 0.5) - 0.5;
    const int32_t reach = most_taps / 2;
    if (reach == 1 && point < 0) point = 0;
    // Rounded down, also below 0.
    int32_t index = static_cast<int32_t>(point);
    index -= static_cast<double>(index) > point;
    index = index < size - 1 ? index : size - 1;
    double rest = point - static_cast<double>(index);
    rest = rest < 0 ? 0.0 : rest > 1 ? 1.0 : rest;
    const int32_t begin = index - reach + 1, first = begin > 0 ? begin : 0;
    const int32_t last = index + reach < size - 1 ? index + reach : size - 1;
    for (int32_t k = 0; k < most_taps; ++k) weights[k] = 0;
    for (int32_t k = 0; k < most_taps; ++k) {
      const int32_t pixel = begin + k, kept = pixel < first ? first : pixel > last ? last : pixel;
      weights[kept - first] += filter(static_cast<double>(k + 1 - reach) - rest);
      if (weights[kept - first] > largest) largest = weights[kept - first];
    }
    return {first, last - first + 1};
  }
};

// Bits behind the point of integer weights: Pillow has always 22, torch as many as let the largest weight of an axis
// fit 16 bits.
HANDGRAD_MATH int32_t precision_of(double largest, bool pillow) {
  int32_t bits = pillow ? 22 : 0;
  while (bits < 22 && static_cast<int32_t>(0.5 + largest * static_cast<double>(1 << (bits + 1))) < 1 << 15) ++bits;
  return bits;
}

HANDGRAD_MATH int32_t integer_weight(double weight, int32_t precision) {
  const double scaled = weight * static_cast<double>(1 << precision);
  return static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
}

}  // namespace handgrad::resized_crop
