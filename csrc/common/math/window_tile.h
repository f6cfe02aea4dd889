// What a loop over the windows of a tile knows.
#pragma once

#include "math/window_moments.h"

#if defined(__CUDACC__)
#define HANDGRAD_TEAM __device__ __forceinline__
#define HANDGRAD_UNROLL _Pragma("unroll")
#define HANDGRAD_ROLLED _Pragma("unroll 1")
#else
#define HANDGRAD_TEAM inline
#define HANDGRAD_UNROLL _Pragma("GCC unroll 8")
#define HANDGRAD_ROLLED
#endif

namespace handgrad {

// The averages of windows, and which of them there are. Copied into a loop, so that no store can change it.
template <class C, class Formula>
struct WindowsOfTile {
  static constexpr bool kCross = Formula::kCross;
  static constexpr int kAverages = kWindowAverages<Formula>;

  Formula formula;
  C* average;
  int32_t pitch, origin[3], windows[3];
  C moved[2];

  HANDGRAD_MATH bool is_window(int32_t s, int32_t r, int32_t w) const {
    const bool outer =
        (origin[0] + s >= 0) & (origin[0] + s < windows[0]) & (origin[1] + r >= 0) & (origin[1] + r < windows[1]);
    return outer & (origin[2] + w >= 0) & (origin[2] + w < windows[2]);
  }
  template <class N>
  HANDGRAD_MATH void averages(int32_t i, N (&a)[5]) const {
    HANDGRAD_UNROLL
    for (int k = 0; k < kAverages; ++k) {
      if constexpr (std::is_same_v<N, C>) {
        a[k] = average[k * pitch + i];
      } else {
        a[k] = N(average[k * pitch + i], average[(kAverages + k) * pitch + i]);
      }
    }
    if constexpr (!kCross) a[4] = N(0);
  }
  template <class N>
  HANDGRAD_MATH N value(int32_t i) const {
    N a[5];
    averages(i, a);
    return formula.value(moments_of<kCross>(a, moved[0], moved[1]));
  }
  template <class N>
  HANDGRAD_MATH void slopes(int32_t i, N (&a)[5]) const {
    averages(i, a);
    slopes_of_averages<kCross>(formula.slope(moments_of<kCross>(a, moved[0], moved[1])), a);
  }
};

}  // namespace handgrad
