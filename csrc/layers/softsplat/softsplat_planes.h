// The channels of sources and of targets, and the loops over them, on the CPU: innermost, so that a source at a target
// is one run of memory; of an image with few channels each is a plane by itself, as it is in memory.
//
// In order of appearance: Turned, the scratch memory; Features, the channels of a run of sources; Band, those of some
// targets, which sources are added to; Targets, all targets of some images, which are read.
#pragma once

#include "cpu/bilinear.h"
#include "cpu/channel_blocks.h"
#include "softsplat_runs.h"

namespace handgrad::softsplat {

// Channels that are planes by themselves: fewer than so many.
inline constexpr int64_t kPlanar = 4;

// Numbers of a pixel: whole vectors, zeros behind the channels.
template <bool Planar>
int64_t group_of(int64_t channels) {
  return Planar ? channels : (channels + kFewChannels - 1) / kFewChannels * kFewChannels;
}

template <class P>
PixelRow<P> pixels_of(const StoredView<P, 3>& image, int64_t n, int64_t first) {
  return {image.at(n, 0, first), image.strides[1], image.strides[2]};
}

// Scratch memory of one thread, to turn a run with.
template <class C>
struct Turned : Transposer<kFewChannels, C> {
  Turned() : Transposer<kFewChannels, C>(kRun) {}
};

// `count` pixels of an image, at most kRun, to a group each, or of planes to lines that are `line` apart; and back.
template <bool Planar, class C>
void load_group(const StoredView<const C, 3>& image, int64_t n, int64_t channels, int64_t first, int64_t count,
                Turned<C>& turned, C* to, int64_t line) {
  if constexpr (Planar) {
    for (int64_t c = 0; c < channels; ++c) load_run(image.at(n, c, first), image.strides[2], count, to + c * line);
  } else {
    load_pixels<kFewChannels>(pixels_of(image, n, first), channels, count, turned, to, group_of<Planar>(channels));
  }
}
template <bool Planar, class C>
void store_group(const C* from, int64_t line, int64_t channels, const StoredView<C, 3>& image, int64_t n, int64_t first,
                 int64_t count, Turned<C>& turned) {
  if constexpr (Planar) {
    for (int64_t c = 0; c < channels; ++c) store_run(from + c * line, count, image.at(n, c, first), image.strides[2]);
  } else {
    store_pixels<kFewChannels>(from, group_of<Planar>(channels), channels, count, turned, pixels_of(image, n, first));
  }
}

// ---- what sources add to targets ------------------------------------------------------------------------------------

// The targets [begin, end) of an image, and the features of a run of sources that are added to them: channels
// innermost, of planes too, whose pixels are quads here.
template <bool Planar, class C>
class Band {
 public:
  explicit Band(int64_t channels)
      : channels_(channels), group_(Planar ? kQuad : group_of<false>(channels)), features_(kRun * group_) {}

  int64_t group() const { return group_; }
  void clear(int32_t begin, int32_t end) {
    begin_ = begin, end_ = end;
    memory_.assign(static_cast<size_t>((end - begin) * group_), C(0));
  }

  void load(const StoredView<const C, 3>& image, int64_t n, int64_t first, int64_t count) {
    load_pixels<kWidth>(pixels_of(image, n, first), channels_, count, turned_, features_.data(), group_);
  }
  // The features, each times its four weights, in the order of sources.
  [[gnu::noinline]] void add(const SourceRun<C>& run, const typename SourceRun<C>::OfCorners& weight) {
    for (int64_t i = 0; i < run.count; ++i) {
      for (int q = 0; q < 4; ++q) {
        const int32_t t = run.target[q][i];
        if (t < begin_ || t >= end_) continue;
        const C by = weight[q][i];
        C* __restrict const to = memory_.data() + (t - begin_) * group_;
        const C* __restrict const from = features_.data() + i * group_;
        if constexpr (Planar) {
          store_packed<kQuad>(load_packed<kQuad>(to) + by * load_packed<kQuad>(from), to);
        } else {
          HANDGRAD_SIMD
          for (int64_t c = 0; c < group_; ++c) to[c] += by * from[c];
        }
      }
    }
  }
  void store(const StoredView<C, 3>& output, int64_t n) {
    for (int64_t i = 0; i < end_ - begin_; i += kRun) {
      store_pixels<kWidth>(memory_.data() + i * group_, group_, channels_, std::min<int64_t>(kRun, end_ - begin_ - i),
                           turned_, pixels_of(output, n, begin_ + i));
    }
  }

 private:
  static constexpr int64_t kWidth = Planar ? kQuad : kFewChannels;

  int64_t channels_, group_;
  int32_t begin_ = 0, end_ = 0;
  ScratchVector<C> memory_, features_;
  Transposer<kWidth, C> turned_{kRun};
};

// ---- what sources read of targets -----------------------------------------------------------------------------------

// A tensor of some images: where it is, if its channels lie so already, or a copy.
template <bool Planar, class C>
class Targets {
 public:
  Targets(const Geometry& geometry, const StoredView<const C, 3>& image, int64_t first_image, int64_t images)
      : channels_(geometry.channels), group_(group_of<Planar>(geometry.channels)), nothing_(Planar ? 0 : group_) {
    if (image.first.is_computed_in() && (Planar || (image.strides[1] == 1 && group_ == channels_))) {
      data_ = image.at(first_image, 0, 0).in_place();
      image_ = image.strides[0], channel_ = image.strides[1], pixel_ = image.strides[2];
      return;
    }
    const int64_t pixels = geometry.pixels, runs = (pixels + kRun - 1) / kRun;
    image_ = pixels * group_, channel_ = Planar ? pixels : 1, pixel_ = Planar ? 1 : group_;
    copy_.resize(static_cast<size_t>(images * image_));
    data_ = copy_.data();
    parallel_for(images * runs, kRun * group_, [&](int64_t begin, int64_t end) {
      Turned<C> turned;
      for (int64_t index = begin; index < end; ++index) {
        const int64_t n = index / runs, first = index % runs * kRun;
        load_group<Planar>(image, first_image + n, channels_, first, std::min(kRun, pixels - first), turned,
                           copy_.data() + n * image_ + first * pixel_, channel_);
      }
    });
  }

  // Columns: the features become sums of what the targets are, each times its weight. Sums: dots[q][i] is the product
  // of the target with the features that there are.
  template <bool Columns, bool Sums>
  [[gnu::noinline]] void read(const SourceRun<C>& run, int64_t n, const typename SourceRun<C>::OfCorners& weight,
                              const C* features, C* columns, typename SourceRun<C>::OfCorners& dots) const {
    const C* const image = data_ + n * image_;
    if constexpr (Planar) {
      for (int q = 0; Sums && q < 4; ++q) std::fill_n(dots[q], run.count, C(0));
      if (Columns) std::fill_n(columns, kRun * channels_, C(0));
      for (int64_t c = 0; c < channels_; ++c) {
        for (int q = 0; q < 4; ++q) {
          read_plane<Columns, Sums>(image + c * channel_, run, q, weight[q], features + c * kRun, columns + c * kRun,
                                    dots[q]);
        }
      }
    } else {
      for (int64_t i = 0; i < run.count; ++i) {
        const C* x[4];
        C by[4], sums[4];
        for (int q = 0; q < 4; ++q) {
          const int32_t t = run.target[q][i];
          // Nothing of the image is read where there is no target: 0 times infinity would be NaN.
          x[q] = t < 0 ? nothing_.data() : image + t * pixel_;
          by[q] = weight[q][i];
        }
        C* const none[4] = {};
        differentiate_channels<Columns, false, Sums>(group_, x, by, features + i * group_, columns + i * group_, none,
                                                     sums);
        for (int q = 0; Sums && q < 4; ++q) dots[q][i] = sums[q];
      }
    }
  }

 private:
  template <bool Columns, bool Sums>
  void read_plane(const C* plane, const SourceRun<C>& run, int q, const C* __restrict weight,
                  const C* __restrict features, C* __restrict columns, C* __restrict dots) const {
    const int32_t* __restrict const target = run.target[q];
    HANDGRAD_SIMD
    for (int64_t i = 0; i < run.count; ++i) {
      const C there = plane[(target[i] < 0 ? 0 : target[i]) * pixel_], read = target[i] < 0 ? C(0) : there;
      if constexpr (Columns) columns[i] += weight[i] * read;
      if constexpr (Sums) dots[i] += features[i] * read;
    }
  }

  const C* data_ = nullptr;
  int64_t image_ = 0, channel_ = 0, pixel_ = 0, channels_, group_;
  ScratchVector<C> copy_, nothing_;
};

}  // namespace handgrad::softsplat
