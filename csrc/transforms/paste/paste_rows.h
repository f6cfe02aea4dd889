// The output on the CPU: rectangles that are copied, and rectangles that are blended.
#pragma once

#include <cstring>

#include "paste_bands.h"

namespace handgrad::paste {

// ---- opaque rectangles ----------------------------------------------------------------------------------------------

// Nothing is computed: E may be an integer of an element's size.
template <class E>
struct Copier {
  static void copy(Part part, Operand<const E> from, Operand<E> to) {
    part.merge(from, to);
    part.for_runs([&](int64_t c, int64_t y) { run(from.at(c, y), from.column, part.columns, to.at(c, y), to.column); });
  }
  static void fill(Part part, const E* fills, const Operand<E>& to) {
    part.for_runs([&](int64_t c, int64_t y) { run(fills + c, 0, part.columns, to.at(c, y), to.column); });
  }

 private:
  [[gnu::noinline]] static void run(const E* __restrict from, int64_t step, int64_t count, E* __restrict to,
                                    int64_t to_step) {
    if (to_step == 1 && step == 1) {
      std::memcpy(static_cast<void*>(to), from, static_cast<size_t>(count) * sizeof(E));
    } else if (to_step == 1) {
      for (int64_t x = 0; x < count; ++x) to[x] = from[x * step];
    } else {
      for (int64_t x = 0; x < count; ++x) to[x * to_step] = from[x * step];
    }
  }
};

template <class E>
void copy_rectangles(const Frame& frame, const Tables& tables, const std::vector<E>& fills, const Sources& sources,
                     const Tensor& output) {
  const SourceViews<E> views(sources);
  const View<E, 4> to = detail::view_at<E, 4>(static_cast<E*>(output.mutable_data_ptr()), output);
  for_bands(frame, tables, [&](int64_t n, const Bands& bands, const Band& band, int64_t top, int64_t bottom) {
    for (const Stretch& stretch : band.stretches) {
      const Part part{frame.channels, bottom - top, stretch.end - stretch.begin};
      const Operand<E> target = operand_of(to, n, top, stretch.begin);
      const Rectangle* shows =
          stretch.layers ? &bands.rectangles[static_cast<size_t>(lowest(stretch.layers))] : nullptr;
      if (shows && views.has(*shows)) {
        Copier<E>::copy(part, views.at(*shows, top, stretch.begin), target);
      } else {
        Copier<E>::fill(part, fills.data(), target);
      }
    }
  });
}

// ---- blended rectangles ---------------------------------------------------------------------------------------------

inline constexpr int64_t kRun = 1024;

template <class T>
class Blender {
  using C = Compute<T>;

 public:
  Blender(const Frame& frame, const Tables& tables, const std::vector<double>& fills, const Sources& sources,
          const Tensor& output)
      : frame_(frame),
        tables_(tables),
        fills_(fills.begin(), fills.end()),
        views_(sources),
        output_(mutable_view<T, 4>(output)) {}

  void run() const {
    for_bands(frame_, tables_, [&](int64_t n, const Bands& bands, const Band& band, int64_t top, int64_t bottom) {
      for (const Stretch& stretch : band.stretches) {
        const Part part{frame_.channels, bottom - top, stretch.end - stretch.begin};
        const Operand<T> target = operand_of(output_, n, top, stretch.begin);
        if (!blend_two(part, n, bands, stretch, top, target)) blend(part, n, bands, stretch, top, target);
      }
    });
  }

 private:
  Frame frame_;
  const Tables& tables_;
  std::vector<C> fills_;
  SourceViews<T> views_;
  View<T, 4> output_;

  Opacity<C> opacity(int64_t n, int layer) const {
    return tables_.opacities.template opacity<C>(n, layer - frame_.opaque());
  }

  // One image over another, opaque one: the runs are as long as memory has them.
  bool blend_two(Part part, int64_t n, const Bands& bands, const Stretch& stretch, int64_t top, Operand<T> to) const {
    if (!stretch.layers) return false;
    const int low = lowest(stretch.layers);
    const uint32_t rest = without_lowest(stretch.layers);
    const Rectangle& below = bands.rectangles[static_cast<size_t>(low)];
    if (low >= frame_.opaque() || !views_.has(below)) return false;
    Operand<const T> first = views_.at(below, top, stretch.begin);
    if (!rest) {
      Copier<T>::copy(part, first, to);
      return true;
    }
    const int high = lowest(rest);
    const Rectangle& above = bands.rectangles[static_cast<size_t>(high)];
    if (without_lowest(rest) || !views_.has(above)) return false;
    Operand<const T> last = views_.at(above, top, stretch.begin);
    part.merge(first, last, to);
    if (first.column != 1 || last.column != 1 || to.column != 1) return false;
    const Opacity<C> by = opacity(n, high);
    part.for_runs([&](int64_t c, int64_t y) { mix_run(last.at(c, y), first.at(c, y), by, part.columns, to.at(c, y)); });
    return true;
  }

  // Any number of them, some hundred pixels of a channel at a time.
  void blend(const Part& part, int64_t n, const Bands& bands, const Stretch& stretch, int64_t top,
             const Operand<T>& to) const {
    C made[kRun];
    part.for_runs([&](int64_t c, int64_t y) {
      for (int64_t x = 0; x < part.columns; x += kRun) {
        const int64_t count = std::min(kRun, part.columns - x);
        const C fill = fills_[static_cast<size_t>(c)];
        uint32_t layers = stretch.layers;
        std::fill(made, made + count, fill);
        for (; layers; layers = without_lowest(layers)) {
          const int layer = lowest(layers);
          const Rectangle& rectangle = bands.rectangles[static_cast<size_t>(layer)];
          Operand<const T> from{nullptr, 0, 0, 0};
          if (views_.has(rectangle)) from = views_.at(rectangle, top, stretch.begin + x);
          const T* source = from.data ? from.at(c, y) : nullptr;
          if (layer < frame_.opaque()) {
            if (source) load_elements(source, from.column, count, made);
          } else {
            over_run(source, from.column, fill, opacity(n, layer), count, made);
          }
        }
        store_elements(made, count, to.at(c, y) + x * to.column, to.column);
      }
    });
  }

  [[gnu::noinline]] static void mix_run(const T* __restrict above, const T* __restrict below, Opacity<C> by,
                                        int64_t count, T* __restrict to) {
    HANDGRAD_SIMD
    for (int64_t x = 0; x < count; ++x)
      to[x] = Element<T>::made(over(Element<T>::read(above[x]), Element<T>::read(below[x]), by));
  }
  [[gnu::noinline]] static void load_elements(const T* __restrict from, int64_t step, int64_t count, C* __restrict to) {
    if (step == 1) {
      HANDGRAD_SIMD
      for (int64_t x = 0; x < count; ++x) to[x] = Element<T>::read(from[x]);
    } else {
      for (int64_t x = 0; x < count; ++x) to[x] = Element<T>::read(from[x * step]);
    }
  }
  [[gnu::noinline]] static void store_elements(const C* __restrict from, int64_t count, T* __restrict to,
                                               int64_t step) {
    if (step == 1) {
      HANDGRAD_SIMD
      for (int64_t x = 0; x < count; ++x) to[x] = Element<T>::made(from[x]);
    } else {
      for (int64_t x = 0; x < count; ++x) to[x * step] = Element<T>::made(from[x]);
    }
  }
  // No source is the fill.
  [[gnu::noinline]] static void over_run(const T* __restrict from, int64_t step, C fill, Opacity<C> by, int64_t count,
                                         C* __restrict made) {
    C above[kRun];
    if (from) {
      load_elements(from, step, count, above);
    } else {
      std::fill(above, above + count, fill);
    }
    HANDGRAD_SIMD
    for (int64_t x = 0; x < count; ++x) made[x] = over(above[x], made[x], by);
  }
};

}  // namespace handgrad::paste
