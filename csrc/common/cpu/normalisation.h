// What becomes of rows of an image on the CPU: levels scaled, and normalised.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "abi/macros.h"
#include "math/fused.h"
#include "math/statistics.h"

namespace handgrad {

// From the sums of a row to what is stored: levels of uint8 are scaled as they are asked for, then everything is
// normalised.
//
// torch divides by the standard deviation, and so does this: a product with the inverse, corrected by the remainder
// that a fused multiplication and addition leaves, is the quotient itself. Whether it is, for all 256 levels, is found
// out beforehand; if not, and for numbers that are no levels, the processor divides.
template <class F>
class Normalisation {
 public:
  Normalisation(const std::vector<double>& mean, const std::vector<double>& std, bool is_level, LevelScaling scaling)
      : scale_(is_level && scaling != LevelScaling::none ? static_cast<F>(1.0 / 255) : F(1)),
        divides_(is_level && scaling == LevelScaling::quotient),
        corrects_(is_level && kFused) {
    for (size_t c = 0; c < mean.size(); ++c) {
      mean_.push_back(static_cast<F>(mean[c]));
      std_.push_back(static_cast<F>(std[c]));
      inverse_.push_back(F(1) / static_cast<F>(std[c]));
      corrects_ = corrects_ && corrects(c);
    }
  }

  // What levels are multiplied by. In a loop of its own: beside the subtraction the compiler would round both at once.
  F factor() const { return divides_ ? F(1) : scale_; }

  // `count` elements of channel c, multiplied so, in place.
  void apply(F* values, int64_t count, int64_t c) const {
    if (divides_) divide(values, count);
    const size_t channel = static_cast<size_t>(c);
    if (mean_.empty()) return;
    if (corrects_) {
      apply_corrected(values, count, mean_[channel], std_[channel], inverse_[channel]);
    } else {
      apply_divided(values, count, mean_[channel], std_[channel]);
    }
  }

 private:
#ifdef FP_FAST_FMAF
  static constexpr bool kFused = true;
#else
  static constexpr bool kFused = false;
#endif

  F scale_;
  bool divides_, corrects_;
  std::vector<F> mean_, std_, inverse_;

  bool corrects(size_t c) const {
    F levels[256];
    for (int64_t i = 0; i < 256; ++i) levels[i] = static_cast<F>(i);
    for (F& level : levels) level *= factor();
    if (divides_) divide(levels, 256);
    return corrects(levels, mean_[c], std_[c], inverse_[c]);
  }
  static bool corrects(const F (&levels)[256], F mean, F std, F inverse) {
    F quotients[256], corrected[256];
    std::memcpy(quotients, levels, sizeof(levels));
    std::memcpy(corrected, levels, sizeof(levels));
    apply_divided(quotients, 256, mean, std);
    apply_corrected(corrected, 256, mean, std, inverse);
    return std::memcmp(quotients, corrected, sizeof(quotients)) == 0;
  }
  // The same for whole levels.
  static bool divides_by_correction() {
    static const bool kCorrects = [] {
      F levels[256];
      for (int64_t i = 0; i < 256; ++i) levels[i] = static_cast<F>(i);
      return kFused && corrects(levels, F(0), F(255), static_cast<F>(1.0 / 255));
    }();
    return kCorrects;
  }

  // Levels by 255.
  void divide(F* values, int64_t count) const {
    if (divides_by_correction()) {
      apply_corrected(values, count, F(0), F(255), scale_);
    } else {
      apply_divided(values, count, F(0), F(255));
    }
  }

  [[gnu::noinline]] static void apply_divided(F* values, int64_t count, F mean, F std) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) values[i] = (values[i] - mean) / std;
  }
  [[gnu::noinline]] static void apply_corrected(F* values, int64_t count, F mean, F std, F inverse) {
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) {
      const F centred = values[i] - mean, quotient = centred * inverse;
      values[i] = fused_multiply_add(fused_multiply_add(-quotient, std, centred), inverse, quotient);
    }
  }
};

}  // namespace handgrad
