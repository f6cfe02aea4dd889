// A run's way between memory and planes on the CPU.
//
// In order of appearance: memory; the end of a chain, a run of levels or numbers into memory.
#pragma once

#include <type_traits>

#include "adjust_colors_host.h"
#include "adjust_colors_loops.h"
#include "cpu/normalisation.h"
#include "cpu/pixel_runs.h"
#include "cpu/planes.h"
#include "cpu/scratch.h"
#include "math/convert.h"

namespace handgrad::adjust_colors {

using Run = PixelRun;
using Walk = PixelWalk;
using Source = PixelSource;
using Target = PixelTarget;

// ---- memory ---------------------------------------------------------------------------------------------------------

// A run of levels, or of numbers that are computed in C.
template <class C>
void load_planes(const Source& source, int64_t channels, const Run& run, Planes<C>& planes) {
  if (source.dtype != ScalarType::Byte) {
    for (int64_t c = 0; c < channels; ++c)
      load_run<C>(source.dtype, source.at(run, c), 0, source.pixel, run.count, planes.channel[c]);
  } else if (channels == 3 && source.is_packed(channels)) {
    split_three<3>(source.at(run, 0), run.count, planes.channel[0], kRun);
  } else if (channels == 3 && source.channel == 1 && source.pixel == 4) {
    split_three<4>(source.at(run, 0), run.count, planes.channel[0], kRun);
  } else {
    for (int64_t c = 0; c < channels; ++c) widen_run(source.at(run, c), source.pixel, run.count, planes.channel[c]);
  }
}

// Planes of C, or of uint8, which is the type in memory then.
template <class V>
void store_planes(const V (&planes)[3][kRun], int64_t channels, const Run& run, const Target& target) {
  const bool is_stored_so = target.dtype == (sizeof(V) == 1 ? ScalarType::Byte : kDtype<V>);
  if (is_stored_so && channels == 3 && target.is_packed(channels)) {
    interleave_three(planes[0], kRun, run.count, reinterpret_cast<V*>(target.at(run, 0)));
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    if constexpr (sizeof(V) == 1) {
      V* to = target.at(run, c);
      if (target.pixel == 1) {
        std::copy(planes[c], planes[c] + run.count, to);
      } else {
        for (int64_t i = 0; i < run.count; ++i) to[i * target.pixel] = planes[c][i];
      }
    } else {
      store_run<V>(target.dtype, planes[c], run.count, target.at(run, c), 0, target.pixel);
    }
  }
}

// ---- the end of a chain ---------------------------------------------------------------------------------------------

template <class From, class To>
[[gnu::noinline]] void scale_run(const From* __restrict from, int64_t count, To factor, To* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[i]) * factor;
}

[[gnu::noinline]] inline void narrow_levels(const float* __restrict from, int64_t count, uint8_t* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(static_cast<int32_t>(from[i]));
}

inline void store_levels(const Planes<float>& planes, int64_t channels, const Run& run, const Target& target) {
  uint8_t levels[3][kRun];
  for (int64_t c = 0; c < channels; ++c) narrow_levels(planes.channel[c], run.count, levels[c]);
  store_planes(levels, channels, run, target);
}

// Scaled, if they are levels, and normalised, in F; in place where memory is of F and pixels are neighbours.
template <class F, class C>
void store_normalised(const Planes<C>& planes, const Normalisation<F>& normalisation, int64_t channels, const Run& run,
                      const Target& target) {
  const bool in_place = target.dtype == kDtype<F> && target.pixel == 1;
  F values[3][kRun];
  for (int64_t c = 0; c < channels; ++c) {
    F* to = in_place ? reinterpret_cast<F*>(target.at(run, c)) : values[c];
    scale_run(planes.channel[c], run.count, normalisation.factor(), to);
    normalisation.apply(to, run.count, c);
  }
  if (!in_place) store_planes(values, channels, run, target);
}

}  // namespace handgrad::adjust_colors
