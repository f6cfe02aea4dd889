// Planes of Width channels of an image, and the loops over the channels of a point, on the CPU. Channels are innermost,
// so that a tap is one run of memory; a plane of one channel is read as it is in memory. Before the first pixel of
// quads there are zeros too, for taps that have none.
//
// In order of appearance: planes; points, the same of the output; the sample; what it gives back to its pixels; the
// sums for the gradient of its coordinates.
#pragma once

#include "cpu/bilinear.h"
#include "cpu/channel_blocks.h"
#include "grid_sample_taps.h"

namespace handgrad::grid_sample {

// Pixels that are turned at a time.
inline constexpr int64_t kTurned = 256;

// Channels that are turned at a time, at most: lines that lie a power of two apart, as those of images often do, share
// few lines of a first-level cache.
template <int64_t Width>
inline constexpr int64_t kTurnedChannels = std::min<int64_t>(Width, 8);

// Scratch memory of one thread.
template <int64_t Width, class C>
struct Turning : Transposer<kTurnedChannels<Width>, C> {
  Turning() : Transposer<kTurnedChannels<Width>, C>(kTurned) {}
};
template <class C>
struct Turning<1, C> {};

// ---- planes ---------------------------------------------------------------------------------------------------------

// Pixel i is Width numbers.
template <class P>
struct Plane {
  P* data = nullptr;
  int64_t stride = 0;

  P* at(int32_t pixel) const { return data + pixel * stride; }
};

// Whether a block of an image, (batch, channels, pixels), can be used as it lies in memory.
template <int64_t Width, class P>
bool is_in_place(const StoredView<P, 3>& image, int64_t channels) {
  return Width != kQuad && image.first.is_computed_in() && (Width == 1 || (image.strides[1] == 1 && channels == Width));
}
template <class P>
Plane<P> plane_in_place(const StoredView<P, 3>& image, const ChannelBlock& block) {
  return {image.at(block.n, block.first, 0).in_place(), image.strides[2]};
}

template <class P>
PixelRow<P> pixels_of(const StoredView<P, 3>& image, const ChannelBlock& block, int64_t first) {
  return {image.at(block.n, block.first, first), image.strides[1], image.strides[2]};
}

// Between pixels of two to four channels that lie side by side and quads, which a call for each pixel would take longer
// for: a vector reads some of the next pixel, or writes what the next one is written over. `channels` of body is a
// constant.
template <class P, class Body>
bool is_side_by_side(const StoredView<P, 3>& image, int64_t channels, const Body& body) {
  if (!image.first.is_computed_in() || image.strides[1] != 1 || image.strides[2] != channels) return false;
  if (channels == 2) body(std::integral_constant<int64_t, 2>());
  if (channels == 3) body(std::integral_constant<int64_t, 3>());
  if (channels == 4) body(std::integral_constant<int64_t, 4>());
  return channels > 1;
}
template <class C>
bool load_side_by_side(const StoredView<const C, 3>& image, const ChannelBlock& block, int64_t first, int64_t count,
                       C* to) {
  return is_side_by_side(image, block.count, [&](auto channels) {
    const C* const from = image.at(block.n, block.first, first).in_place();
    for (int64_t i = 0; i + 1 < count; ++i) {
      Packed<C, kQuad> pixel = load_packed<kQuad>(from + i * channels);
      for (int64_t c = channels; c < kQuad; ++c) pixel[c] = 0;
      store_packed<kQuad>(pixel, to + i * kQuad);
    }
    const int64_t last = count - 1;
    for (int64_t c = 0; c < kQuad; ++c) to[last * kQuad + c] = c < channels ? from[last * channels + c] : C(0);
  });
}
template <class C>
bool store_side_by_side(const C* from, const StoredView<C, 3>& image, const ChannelBlock& block, int64_t first,
                        int64_t count) {
  return is_side_by_side(image, block.count, [&](auto channels) {
    C* const to = image.at(block.n, block.first, first).in_place();
    for (int64_t i = 0; i + 1 < count; ++i) {
      store_packed<kQuad>(load_packed<kQuad>(from + i * kQuad), to + i * channels);
    }
    const int64_t last = count - 1;
    for (int64_t c = 0; c < channels; ++c) to[last * channels + c] = from[last * kQuad + c];
  });
}

// `count` pixels of a block, at most kTurned unless Width is 1, to Width numbers each, and back.
template <int64_t Width, class C>
[[gnu::noinline]] void load_group(const StoredView<const C, 3>& image, const ChannelBlock& block, int64_t first,
                                  int64_t count, Turning<Width, C>& turning, C* to) {
  if constexpr (Width == 1) {
    load_run(image.at(block.n, block.first, first), image.strides[2], count, to);
  } else {
    if constexpr (Width == kQuad) {
      if (load_side_by_side(image, block, first, count, to)) return;
    }
    const int64_t step = image.strides[1] == 1 ? Width : kTurnedChannels<Width>;
    for (int64_t c = 0; c < block.count; c += step) {
      const ChannelBlock some{block.n, block.first + c, std::min(step, block.count - c)};
      load_pixels<kTurnedChannels<Width>>(pixels_of(image, some, first), some.count, count, turning, to + c, Width);
    }
    // Channels that there are none of.
    constexpr int64_t kAtATime = kTurnedChannels<Width>;
    const int64_t filled = (block.count + kAtATime - 1) / kAtATime * kAtATime;
    for (int64_t i = 0; filled < Width && i < count; ++i) {
      std::fill(to + i * Width + filled, to + (i + 1) * Width, C(0));
    }
  }
}
template <int64_t Width, class C>
[[gnu::noinline]] void store_group(const C* from, const StoredView<C, 3>& image, const ChannelBlock& block,
                                   int64_t first, int64_t count, Turning<Width, C>& turning) {
  if constexpr (Width == 1) {
    store_run(from, count, image.at(block.n, block.first, first), image.strides[2]);
  } else {
    if constexpr (Width == kQuad) {
      if (store_side_by_side(from, image, block, first, count)) return;
    }
    const int64_t step = image.strides[1] == 1 ? Width : kTurnedChannels<Width>;
    for (int64_t c = 0; c < block.count; c += step) {
      const ChannelBlock some{block.n, block.first + c, std::min(step, block.count - c)};
      store_pixels<kTurnedChannels<Width>>(from + c, Width, some.count, count, turning, pixels_of(image, some, first));
    }
  }
}

// A block of an image, for reading: in place, or a copy.
template <int64_t Width, class C>
[[gnu::noinline]] Plane<const C> load_plane(const StoredView<const C, 3>& image, const ChannelBlock& block,
                                            int64_t pixels, ScratchVector<C>& memory, Turning<Width, C>& turning) {
  if (is_in_place<Width>(image, block.count)) return plane_in_place(image, block);
  constexpr int64_t kBefore = Width == kQuad ? Width : 0;
  memory.resize(static_cast<size_t>(kBefore + pixels * Width));
  C* const plane = memory.data() + kBefore;
  for (int64_t i = 0; i < pixels; i += kTurned) {
    load_group<Width>(image, block, i, std::min(kTurned, pixels - i), turning, plane + i * Width);
  }
  return {plane, Width};
}

// Zeros to add to, which store_plane then puts where they belong.
template <int64_t Width, class C>
[[gnu::noinline]] Plane<C> clear_plane(const StoredView<C, 3>& image, const ChannelBlock& block, int64_t pixels,
                                       ScratchVector<C>& memory) {
  if (!is_in_place<Width>(image, block.count)) {
    memory.assign(static_cast<size_t>(pixels * Width), C(0));
    return {memory.data(), Width};
  }
  const Plane<C> plane = plane_in_place(image, block);
  for (int64_t i = 0; i < pixels; ++i) std::fill_n(plane.data + i * plane.stride, Width, C(0));
  return plane;
}
template <int64_t Width, class C>
[[gnu::noinline]] void store_plane(const Plane<C>& plane, const StoredView<C, 3>& image, const ChannelBlock& block,
                                   int64_t pixels, Turning<Width, C>& turning) {
  if (is_in_place<Width>(image, block.count)) return;
  for (int64_t i = 0; i < pixels; i += kTurned) {
    store_group<Width>(plane.data + i * Width, image, block, i, std::min(kTurned, pixels - i), turning);
  }
}

// ---- a sample -------------------------------------------------------------------------------------------------------

// What is read where there is no pixel. Nothing of the image is read there: 0 times infinity would be NaN.
template <int64_t Width, class C>
struct Nothing {
  alignas(kCacheLine) C data[Width] = {};
};

// The same of a plane of one channel, without a branch.
template <class C, class Stride>
HANDGRAD_MATH C pixel_of(const C* plane, Stride stride, int32_t pixel) {
  const C read = plane[(pixel < 0 ? 0 : pixel) * stride];
  return pixel < 0 ? C(0) : read;
}
// Calls body with the stride of pixels, as a constant if it is 1.
template <class C, class Body>
void for_strides(const Plane<const C>& plane, const Body& body) {
  if (plane.stride == 1) {
    body(std::integral_constant<int32_t, 1>());
  } else {
    body(plane.stride);
  }
}

// body(p, taps, tap) for each point of quads, where tap(t) is what lies at tap t; `taps` is a constant if there are
// four.
template <class C, class Body>
void for_quads(const TapRun<C>& run, const Plane<const C>& plane, int64_t count, const Body& body) {
  const auto all = [&](auto taps) {
    for (int64_t p = 0; p < count; ++p) {
      // None is pixel -1.
      body(p, taps, [&](int t) { return plane.data + int64_t{run.pixel[t][p]} * kQuad; });
    }
  };
  if (run.taps == 4) {
    all(std::integral_constant<int, 4>());
  } else {
    all(run.taps);
  }
}

// `outputs`, Width numbers for each point, are set to the sums of what the taps weigh, or these are added.
template <int64_t Width, class C>
[[gnu::noinline]] void sample_points(const TapRun<C>& run, const typename TapRun<C>::OfTaps& weights,
                                     const Plane<const C>& plane, int64_t count, bool adds, C* outputs) {
  if constexpr (Width == 1) {
    if (!adds) std::fill_n(outputs, count, C(0));
    for_strides(plane, [&](auto stride) {
      for (int t = 0; t < run.taps; ++t) {
        HANDGRAD_SIMD
        for (int64_t p = 0; p < count; ++p) outputs[p] += weights[t][p] * pixel_of(plane.data, stride, run.pixel[t][p]);
      }
    });
  } else if constexpr (Width == kQuad) {
    for_quads(run, plane, count, [&](int64_t p, auto taps, const auto& tap) {
      Packed<C, kQuad> total{};
      for (int t = 0; t < taps; ++t) total += weights[t][p] * load_packed<kQuad>(tap(t));
      C* const output = outputs + p * kQuad;
      store_packed<kQuad>(adds ? load_packed<kQuad>(output) + total : total, output);
    });
  } else {
    static constexpr Nothing<Width, C> nothing;
    if (!adds) std::fill_n(outputs, count * Width, C(0));
    for (int64_t p = 0; p < count; ++p) {
      C* const output = outputs + p * Width;
      const auto tap = [&](int t) { return run.pixel[t][p] < 0 ? nothing.data : plane.at(run.pixel[t][p]); };
      if (run.taps == 1) {
        const C* const x = tap(0);
        const C weight = weights[0][p];
        HANDGRAD_SIMD
        for (int64_t c = 0; c < Width; ++c) output[c] += weight * x[c];
        continue;
      }
      for (int t = 0; t < run.taps; t += 4) {
        const C* const x[4] = {tap(t), tap(t + 1), tap(t + 2), tap(t + 3)};
        const C four[4] = {weights[t][p], weights[t + 1][p], weights[t + 2][p], weights[t + 3][p]};
        add_sample_channels<C>(Width, x, four, output);
      }
    }
  }
}

// ---- derivatives ----------------------------------------------------------------------------------------------------

// What points give back to the pixels [begin, end) of an image, which `plane` has: in the order of points, whoever
// takes which pixels.
template <int64_t Width, class C>
[[gnu::noinline]] void scatter_points(const TapRun<C>& run, const typename TapRun<C>::OfTaps& weights, const C* grads,
                                      int64_t count, int32_t begin, int32_t end, const Plane<C>& plane) {
  for (int64_t p = 0; p < count; ++p) {
    const C* __restrict const grad = grads + p * Width;
    for (int t = 0; t < run.taps; ++t) {
      const int32_t pixel = run.pixel[t][p];
      if (pixel < begin || pixel >= end) continue;
      const C weight = weights[t][p];
      if constexpr (Width == kQuad) {
        C* const to = plane.data + int64_t{pixel - begin} * kQuad;
        store_packed<kQuad>(load_packed<kQuad>(to) + weight * load_packed<kQuad>(grad), to);
        continue;
      }
      C* __restrict const to = plane.at(pixel - begin);
      HANDGRAD_SIMD
      for (int64_t c = 0; c < Width; ++c) to[c] += weight * grad[c];
    }
  }
}

// Adds to sums[coordinate][point] the sum over channels of the gradient times the taps, weighed by `slopes`: lanes
// first, and these in a tree.
template <int64_t Width, int Axes, class C>
[[gnu::noinline]] void sum_points(const TapRun<C>& run, const typename TapRun<C>::OfTaps (&slopes)[3],
                                  const Plane<const C>& plane, const C* grads, int64_t count, C (&sums)[3][kRun]) {
  if constexpr (Width == 1) {
    for_strides(plane, [&](auto stride) {
      for (int t = 0; t < run.taps; ++t) {
        HANDGRAD_SIMD
        for (int64_t p = 0; p < count; ++p) {
          const C product = grads[p] * pixel_of(plane.data, stride, run.pixel[t][p]);
          for (int a = 0; a < Axes; ++a) sums[a][p] += slopes[a][t][p] * product;
        }
      }
    });
    return;
  }
  if constexpr (Width == kQuad) {
    for_quads(run, plane, count, [&](int64_t p, auto taps, const auto& tap) {
      Packed<C, kQuad> slope[Axes] = {};
      for (int t = 0; t < taps; ++t) {
        const Packed<C, kQuad> x = load_packed<kQuad>(tap(t));
        for (int a = 0; a < Axes; ++a) slope[a] += slopes[a][t][p] * x;
      }
      for (int a = 0; a < Axes; ++a) {
        const Packed<C, kQuad> lanes = slope[a] * load_packed<kQuad>(grads + p * kQuad);
        sums[a][p] += (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
      }
    });
    return;
  }
  constexpr int64_t kLanes = std::min<int64_t>(Width, 16);
  static constexpr Nothing<Width, C> nothing;
  for (int64_t p = 0; p < count; ++p) {
    const C* const grad = grads + p * Width;
    alignas(kCacheLine) C lanes[Axes][kLanes] = {};
    for (int t = 0; t < run.taps; t += 4) {
      const C* x[4];
      C four[Axes][4];
      for (int k = 0; k < 4; ++k) {
        const int32_t pixel = run.pixel[t + k][p];
        x[k] = pixel < 0 ? nothing.data : plane.at(pixel);
        for (int a = 0; a < Axes; ++a) four[a][k] = slopes[a][t + k][p];
      }
      const C *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
      for (int64_t c = 0; c < Width; c += kLanes) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < kLanes; ++i) {
          const C g = grad[c + i], a0 = x0[c + i], a1 = x1[c + i], a2 = x2[c + i], a3 = x3[c + i];
#pragma GCC unroll 3
          for (int a = 0; a < Axes; ++a) {
            lanes[a][i] += g * (four[a][0] * a0 + four[a][1] * a1 + four[a][2] * a2 + four[a][3] * a3);
          }
        }
      }
    }
    for (int a = 0; a < Axes; ++a) {
      for (int64_t half = kLanes / 2; half > 0; half /= 2) {
        for (int64_t i = 0; i < half; ++i) lanes[a][i] += lanes[a][i + half];
      }
      sums[a][p] += lanes[a][0];
    }
  }
}

}  // namespace handgrad::grid_sample
