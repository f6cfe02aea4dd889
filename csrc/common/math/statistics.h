// What images are normalised with, as a parameter of a kernel on a device.
#pragma once

#include <cstdint>
#include <vector>

#include "math/scalar_math.h"

namespace handgrad {

// What becomes of levels that are to be numbers: a product with 1/255, a quotient by 255, or the levels themselves. As
// schemas count them.
enum class LevelScaling : int32_t { product = 0, quotient = 1, none = 2 };

// What a pixel of an image is in the end, for the channels from `first` on: scaled and normalised.
struct Statistics {
  static constexpr int kMost = 4;
  double mean[kMost], std[kMost];
  int32_t first, count;
  bool normalises;
  LevelScaling scaling;

  template <class F>
  HANDGRAD_MATH F scaled(F level) const {
    if (scaling == LevelScaling::none) return level;
    return scaling == LevelScaling::quotient ? level / F(255) : rounded_product(level, static_cast<F>(1.0 / 255));
  }
  template <class F>
  HANDGRAD_MATH F apply(F value, int32_t c) const {
    return normalises ? (value - static_cast<F>(mean[c])) / static_cast<F>(std[c]) : value;
  }
};

// Those of channels [first, first + count), of lists with a number for each channel, or of empty ones.
inline Statistics statistics_of(const std::vector<double>& means, const std::vector<double>& deviations,
                                LevelScaling scaling, int64_t first, int64_t count) {
  Statistics statistics{};
  statistics.first = static_cast<int32_t>(first), statistics.count = static_cast<int32_t>(count);
  statistics.normalises = !deviations.empty();
  statistics.scaling = scaling;
  for (int64_t c = 0; statistics.normalises && c < count; ++c) {
    statistics.mean[c] = means[static_cast<size_t>(first + c)];
    statistics.std[c] = deviations[static_cast<size_t>(first + c)];
  }
  return statistics;
}

}  // namespace handgrad
