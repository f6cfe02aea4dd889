// The loops of the colour operations on the CPU, over a run of neighbouring pixels in planes of one channel each, which
// the compiler vectorises.
//
// In order of appearance: the steps of levels; of numbers, plain and dual; their derivatives; sums over a run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "abi/macros.h"
#include "adjust_colors_math.h"
#include "cpu/pixel_runs.h"

namespace handgrad::adjust_colors {

// The channels of a run; of one channel, only the first.
template <class N>
struct Planes {
  N channel[3][kRun];
};

// ---- levels ---------------------------------------------------------------------------------------------------------

[[gnu::noinline]] inline void brighten_levels(const Step<float>& step, int64_t count, float* __restrict x) {
  const float factor = step.factor;
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) x[i] = brighter_level(x[i], factor);
}

[[gnu::noinline]] inline void blend_levels(const Step<float>& step, int64_t count, float* __restrict x) {
  const Step<float> local = step;
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) x[i] = blended_level(x[i], local.mean, local);
}

[[gnu::noinline]] inline void saturate_levels(const Step<float>& step, int64_t count, Planes<float>& planes) {
  const Step<float> local = step;
  float* __restrict r = planes.channel[0], * __restrict g = planes.channel[1], * __restrict b = planes.channel[2];
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const float gray = gray_level(r[i], g[i], b[i]);
    r[i] = blended_level(r[i], gray, local), g[i] = blended_level(g[i], gray, local);
    b[i] = blended_level(b[i], gray, local);
  }
}

[[gnu::noinline]] inline void turn_levels(const Step<float>& step, int64_t count, Planes<float>& planes) {
  const float factor = step.factor;
  float* __restrict r = planes.channel[0], * __restrict g = planes.channel[1], * __restrict b = planes.channel[2];
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    float red = r[i], green = g[i], blue = b[i];
    turn_level_hue(red, green, blue, factor);
    r[i] = red, g[i] = green, b[i] = blue;
  }
}

[[gnu::noinline]] inline void gray_levels(int64_t count, Planes<float>& planes) {
  float* __restrict r = planes.channel[0], * __restrict g = planes.channel[1], * __restrict b = planes.channel[2];
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) r[i] = g[i] = b[i] = gray_level(r[i], g[i], b[i]);
}

struct LaneSums {
  double of[kLaneSums];

  friend LaneSums operator+(LaneSums a, const LaneSums& b) {
    for (int64_t i = 0; i < kLaneSums; ++i) a.of[i] += b.of[i];
    return a;
  }
};

// Of levels, which are floats that hold nothing else.
struct Levels {
  using N = float;

  static void apply(const Step<float>& step, int64_t channels, int64_t count, Planes<float>& planes) {
    if (step.is_idle(channels)) return;
    switch (step.operation) {
      case Operation::brightness:
        for (int64_t c = 0; c < channels; ++c) brighten_levels(step, count, planes.channel[c]);
        break;
      case Operation::contrast:
        for (int64_t c = 0; c < channels; ++c) blend_levels(step, count, planes.channel[c]);
        break;
      case Operation::saturation: saturate_levels(step, count, planes); break;
      case Operation::hue: turn_levels(step, count, planes); break;
      case Operation::grayscale: gray_levels(count, planes); break;
      default: break;
    }
  }

  // The sums of the gray of a run, whose first pixel is pixel `first` of `pixels`.
  using Sum = LaneSums;
  [[gnu::noinline]] static LaneSums gray_sum(int64_t channels, int64_t first, int64_t pixels, int64_t count,
                                             const Planes<float>& planes) {
    const float *r = planes.channel[0], *g = planes.channel[1], *b = planes.channel[2];
    // From a first lane on; what is beyond the run is 0.
    const int64_t shift = first % kLanes, whole = pixels / kLanes * kLanes;
    const int64_t in_lanes = std::min(std::max<int64_t>(whole - first, 0), count);
    int32_t grays[kRun + 2 * kLanes] = {};
    int32_t* to = grays + shift;
    if (channels == 1) {
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<int32_t>(r[i]);
    } else {
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<int32_t>(gray_level(r[i], g[i], b[i]));
    }
    LaneSums sums{};
    for (int64_t i = in_lanes; i < count; ++i) sums.of[kLanes] += std::exchange(to[i], 0);
    int32_t lanes[kLanes] = {};
    for (int64_t i = 0; i < shift + in_lanes; i += kLanes) {
      HANDGRAD_SIMD
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += grays[i + lane];
    }
    for (int lane = 0; lane < kLanes; ++lane) sums.of[lane] = lanes[lane];
    return sums;
  }

  static float mean_of(const LaneSums& sums, int64_t pixels) { return mean_of_lanes(sums.of, pixels); }
};

// ---- numbers --------------------------------------------------------------------------------------------------------

// body(i) for every pixel of a run.
template <class Body>
[[gnu::noinline]] void for_each_pixel(int64_t count, const Body& body) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) body(i);
}

template <class N>
HANDGRAD_MATH void turn_hue_of(N& red, N& green, N& blue, N factor) {
  if constexpr (std::is_floating_point_v<N>) {
    turn_number_hue(red, green, blue, factor);
  } else {
    Turn<N>(red, green, blue, factor).apply(red, green, blue);
  }
}

// What sums over an image are made in.
template <class N>
struct WideOf {
  using type = double;
};
template <class C>
struct WideOf<Dual<C>> {
  using type = Dual<double>;
};
template <class N>
using Wide = typename WideOf<N>::type;

inline double widened(double x) { return x; }
template <class C>
Dual<double> widened(Dual<C> x) {
  return {x.value, x.tangent};
}
template <class N>
N narrowed(Wide<N> x) {
  if constexpr (std::is_floating_point_v<N>) {
    return static_cast<N>(x);
  } else {
    return {static_cast<Plain<N>>(x.value), static_cast<Plain<N>>(x.tangent)};
  }
}

template <class N>
Wide<N> sum_of(int64_t count, const N* values) {
  Wide<N> sum(0);
  for (int64_t i = 0; i < count; ++i) sum = sum + widened(values[i]);
  return sum;
}

template <class Number>
struct Numbers {
  using N = Number;

  static void apply(const Step<N>& step, int64_t channels, int64_t count, Planes<N>& planes) {
    if (step.is_idle(channels)) return;
    const Step<N> local = step;
    N *r = planes.channel[0], *g = planes.channel[1], *b = planes.channel[2];
    if (step.operation == Operation::brightness) {
      for (int64_t c = 0; c < channels; ++c) {
        N* x = planes.channel[c];
        for_each_pixel(count, [=](int64_t i) { x[i] = unit_of(x[i] * local.factor); });
      }
    } else if (step.operation == Operation::contrast) {
      for (int64_t c = 0; c < channels; ++c) {
        N* x = planes.channel[c];
        for_each_pixel(count, [=](int64_t i) { x[i] = unit_of(blended(x[i], local.mean, local)); });
      }
    } else if (step.operation == Operation::saturation) {
      for_each_pixel(count, [=](int64_t i) {
        const N with = gray(r[i], g[i], b[i]);
        r[i] = unit_of(blended(r[i], with, local)), g[i] = unit_of(blended(g[i], with, local));
        b[i] = unit_of(blended(b[i], with, local));
      });
    } else if (step.operation == Operation::hue) {
      for_each_pixel(count, [=](int64_t i) { turn_hue_of(r[i], g[i], b[i], local.factor); });
    } else {
      for_each_pixel(count, [=](int64_t i) { r[i] = g[i] = b[i] = gray(r[i], g[i], b[i]); });
    }
  }

  using Sum = Wide<N>;
  static Wide<N> gray_sum(int64_t channels, int64_t, int64_t, int64_t count, const Planes<N>& planes) {
    const N *r = planes.channel[0], *g = planes.channel[1], *b = planes.channel[2];
    if (channels == 1) return sum_of(count, r);
    N grays[kRun];
    for_each_pixel(count, [=, to = &grays[0]](int64_t i) { to[i] = gray(r[i], g[i], b[i]); });
    return sum_of(count, grays);
  }

  static N mean_of(Wide<N> sum, int64_t pixels) { return narrowed<N>(sum * (1.0 / static_cast<double>(pixels))); }
};

// ---- derivatives ----------------------------------------------------------------------------------------------------

// The sums over a run of what its pixels contribute to the gradients of a step's factor and mean.
template <class N>
struct ContributionSums {
  Wide<N> factor, mean;
};

// From the gradients of what a step makes of `planes` to those of what it is given, in place. `of_gray` is what the
// gradient of its mean gives to every gray.
template <class N>
ContributionSums<N> pull_back(const Step<N>& step, N of_gray, int64_t channels, int64_t count, const Planes<N>& planes,
                              Planes<N>& grads) {
  if (step.is_idle(channels)) return {Wide<N>(0), Wide<N>(0)};
  const Step<N> local = step;
  const N *r = planes.channel[0], *g = planes.channel[1], *b = planes.channel[2];
  N *to_r = grads.channel[0], *to_g = grads.channel[1], *to_b = grads.channel[2];
  N factors[kRun], means[kRun];
  N *to_factor = factors, *to_mean = means;
  std::fill(factors, factors + count, N(0));
  std::fill(means, means + count, N(0));
  if (step.operation == Operation::brightness) {
    for (int64_t c = 0; c < channels; ++c) {
      for_each_pixel(count, [=, x = planes.channel[c], to = grads.channel[c]](int64_t i) {
        pull_back_brightness(x[i], local, to[i], to_factor[i]);
      });
    }
  } else if (step.operation == Operation::contrast) {
    for (int64_t c = 0; c < channels; ++c) {
      for_each_pixel(count, [=, x = planes.channel[c], to = grads.channel[c]](int64_t i) {
        pull_back_blend(x[i], local.mean, local, to[i], to_factor[i], to_mean[i]);
      });
    }
    if (channels == 1) {
      for_each_pixel(count, [=](int64_t i) { to_r[i] = to_r[i] + of_gray; });
    } else {
      for_each_pixel(count, [=](int64_t i) { give_to_channels(of_gray, to_r[i], to_g[i], to_b[i]); });
    }
  } else if (step.operation == Operation::saturation) {
    for_each_pixel(count, [=](int64_t i) {
      const N with = gray(r[i], g[i], b[i]);
      N to_gray(0);
      pull_back_blend(r[i], with, local, to_r[i], to_factor[i], to_gray);
      pull_back_blend(g[i], with, local, to_g[i], to_factor[i], to_gray);
      pull_back_blend(b[i], with, local, to_b[i], to_factor[i], to_gray);
      give_to_channels(to_gray, to_r[i], to_g[i], to_b[i]);
    });
  } else if (step.operation == Operation::hue) {
    for_each_pixel(count, [=](int64_t i) {
      to_factor[i] = Turn<N>(r[i], g[i], b[i], local.factor).pull_back(to_r[i], to_g[i], to_b[i]);
    });
  } else {
    for_each_pixel(count, [=](int64_t i) {
      const N to_gray = to_r[i] + to_g[i] + to_b[i];
      to_r[i] = to_g[i] = to_b[i] = N(0);
      give_to_channels(to_gray, to_r[i], to_g[i], to_b[i]);
    });
  }
  return {sum_of(count, factors), sum_of(count, means)};
}

}  // namespace handgrad::adjust_colors
