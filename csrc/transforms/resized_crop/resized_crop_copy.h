// A crop that keeps its size, on the CPU: rows are read, flipped, scaled, normalised and written, and nothing is
// summed.
#pragma once

#include "resized_crop_host.h"
#include "resized_crop_resampler.h"

namespace handgrad::resized_crop {

// E is the type that rows are read as: uint8_t, float or double; F the one that results are normalised in.
template <class E, class F>
class Copier {
 public:
  Copier(int64_t channels, const Box& box, const Normalisation<F>& normalisation)
      : channels_(channels), box_(box), normalisation_(normalisation), pitch_(box.width) {}

  // Rows [begin, end) of the output.
  void run(const Source& source, const Target& target, int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const int64_t y = box_.vertical_flip ? box_.height - 1 - o : o;
      if (target.dtype == ScalarType::Byte) {
        copy_row<uint8_t>(source, y, target, o, levels_, 1, [](uint8_t*, int64_t) {});
      } else {
        copy_row<F>(source, y, target, o, values_, normalisation_.factor(),
                    [&](F* values, int64_t c) { normalisation_.apply(values, pitch_, c); });
      }
    }
  }

 private:
  int64_t channels_;
  const Box& box_;
  const Normalisation<F>& normalisation_;
  int64_t pitch_;
  ScratchVector<uint8_t> levels_, further_levels_;
  ScratchVector<F> values_, further_values_;

  // finish(values, c) makes the result of a row of channel c, multiplied by `factor`, in place.
  template <class V, class Finish>
  void copy_row(const Source& source, int64_t y, const Target& target, int64_t o, ScratchVector<V>& scratch, V factor,
                const Finish& finish) {
    // Numbers that are neighbours in memory are read where they lie.
    const bool in_place = sizeof(V) > 1 && source.dtype == kDtype<F> && source.column == 1;
    ScratchVector<V>& lines = further<V>();
    if (!in_place) {
      lines.resize(static_cast<size_t>(channels_ * pitch_));
      load_row(source, y, lines.data());
    }
    store_planes<V>(target, o, channels_, pitch_, scratch, [&](int64_t c, V* to) {
      const V* from = in_place ? reinterpret_cast<const V*>(source.at(c, y, 0)) : lines.data() + c * pitch_;
      place(from, pitch_, box_.horizontal_flip, factor, to);
      finish(to, c);
    });
  }

  template <class V>
  ScratchVector<V>& further() {
    if constexpr (sizeof(V) == 1) {
      return further_levels_;
    } else {
      return further_values_;
    }
  }

  // Row y of all channels, one after the other.
  template <class V>
  void load_row(const Source& source, int64_t y, V* to) {
    if constexpr (std::is_same_v<E, uint8_t>) {
      if (channels_ == 3 && source.channel == 1 && source.column == 3)
        return split_three<3>(source.at(0, y, 0), pitch_, to, pitch_);
      if (channels_ == 3 && source.channel == 1 && source.column == 4)
        return split_three<4>(source.at(0, y, 0), pitch_, to, pitch_);
      for (int64_t c = 0; c < channels_; ++c) widen_run(source.at(c, y, 0), source.column, pitch_, to + c * pitch_);
    } else if constexpr (sizeof(V) > 1) {
      for (int64_t c = 0; c < channels_; ++c) {
        load_run<E>(source.dtype, source.at(c, y, 0), 0, source.column, pitch_, to + c * pitch_);
      }
    }
  }

  template <class V>
  [[gnu::noinline]] static void place(const V* __restrict from, int64_t count, bool flip, V factor, V* __restrict to) {
    if (flip) {
      HANDGRAD_SIMD
      for (int64_t x = 0; x < count; ++x) to[x] = static_cast<V>(from[count - 1 - x] * factor);
    } else {
      HANDGRAD_SIMD
      for (int64_t x = 0; x < count; ++x) to[x] = static_cast<V>(from[x] * factor);
    }
  }
};

}  // namespace handgrad::resized_crop
