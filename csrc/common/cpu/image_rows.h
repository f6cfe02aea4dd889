// An image is read at the points of a row of the output, on the CPU, some hundred pixels at a time: points first, in
// lanes. Of what is read, pixels whose corners all lie in the image are stretches, whose loops ask for no border;
// beside them lie a few pixels at the border, one by one, and what is outside. An op says where its points are
// (math/image_sample.h), and has find_points(places of an image, row, first column, count, x, y).
//
// In order of appearance: points of a run; a stretch inside, by planes and by packed levels; a run; all images.
#pragma once

#include <algorithm>

#include "abi/dtype.h"
#include "abi/view.h"
#include "cpu/parallel.h"
#include "math/convert.h"
#include "math/image_sample.h"

namespace handgrad::image_sample {

inline constexpr int64_t kRun = 256;

// An element as it is computed with.
template <class T>
struct Element {
  using C = Compute<T>;
  HANDGRAD_MATH static C read(T x) { return widen(x); }
  HANDGRAD_MATH static T made(C x) { return narrow<T>(x); }
};
template <>
struct Element<uint8_t> {
  using C = float;
  HANDGRAD_MATH static float read(uint8_t x) { return static_cast<float>(x); }
  HANDGRAD_MATH static uint8_t made(float x) { return level_of(x); }
};

// ---- points ---------------------------------------------------------------------------------------------------------

template <class C>
struct RunPoints {
  C x[kRun], y[kRun];
  // Of the pixels inside: row and column of corner 0, and how far the point is from it.
  int32_t row[kRun], column[kRun];
  C down[kRun], right[kRun];
  // 0 outside, 1 at the border, 2 inside.
  int32_t where[kRun];
};

// The rest, of x and y.
template <class C>
[[gnu::noinline]] void find_corners(const ImageFrame& frame, int64_t count, RunPoints<C>& to) {
  const C width = static_cast<C>(frame.width), height = static_cast<C>(frame.height);
  if (!frame.bilinear) {
    HANDGRAD_SIMD
    for (int64_t k = 0; k < count; ++k) {
      const C whole_x = rounded_to_even(to.x[k]), whole_y = rounded_to_even(to.y[k]);
      const bool in = (whole_x >= 0) & (whole_x < width) & (whole_y >= 0) & (whole_y < height);
      to.where[k] = in ? 2 : 0;
      to.row[k] = static_cast<int32_t>(in ? whole_y : C(0)), to.column[k] = static_cast<int32_t>(in ? whole_x : C(0));
    }
    return;
  }
  HANDGRAD_SIMD
  for (int64_t k = 0; k < count; ++k) {
    const C at_x = to.x[k], at_y = to.y[k];
    const C low_x = rounded_down(at_x), low_y = rounded_down(at_y);
    const bool in = (low_x >= 0) & (low_x < width - 1) & (low_y >= 0) & (low_y < height - 1);
    // NaN is at the border.
    const bool out = (at_x <= -1) | (at_x >= width) | (at_y <= -1) | (at_y >= height);
    to.where[k] = in ? 2 : out & (at_x == at_x) & (at_y == at_y) ? 0 : 1;
    to.right[k] = at_x - low_x, to.down[k] = at_y - low_y;
    to.row[k] = static_cast<int32_t>(in ? low_y : C(0)), to.column[k] = static_cast<int32_t>(in ? low_x : C(0));
  }
}

// ---- a stretch inside -----------------------------------------------------------------------------------------------

template <class C>
struct Weights {
  C corner[4][kRun], mask[kRun];
  int32_t offset[kRun];
};

// Weights, and where corner 0 is; `down` and `across` are strides.
template <class C>
[[gnu::noinline]] void weigh(const RunPoints<C>& at, int64_t begin, int64_t end, int64_t across, int64_t along,
                             Weights<C>& to) {
  const int32_t row = static_cast<int32_t>(across), column = static_cast<int32_t>(along);
  HANDGRAD_SIMD
  for (int64_t k = begin; k < end; ++k) {
    const C right = at.right[k], down = at.down[k], left = 1 - right, up = 1 - down;
    const C w0 = product(up, left), w1 = product(up, right), w2 = product(down, left), w3 = product(down, right);
    to.corner[0][k] = w0, to.corner[1][k] = w1, to.corner[2][k] = w2, to.corner[3][k] = w3;
    to.mask[k] = ((w0 + w1) + w2) + w3;
    to.offset[k] = at.row[k] * row + at.column[k] * column;
  }
}

template <class C>
HANDGRAD_MATH C blend(C v0, C v1, C v2, C v3, const Weights<C>& by, int64_t k) {
  return fused(v3, by.corner[3][k],
               fused(v2, by.corner[2][k], fused(v1, by.corner[1][k], product(v0, by.corner[0][k]))));
}

// One channel, at `plane`.
template <bool Filled, class T, class C>
[[gnu::noinline]] void read_plane(const T* plane, int64_t across, int64_t along, const Weights<C>& by, int64_t begin,
                                  int64_t end, C fill, C* __restrict to) {
  const T *second = plane + along, *third = plane + across, *fourth = third + along;
  HANDGRAD_SIMD
  for (int64_t k = begin; k < end; ++k) {
    const int32_t offset = by.offset[k];
    const C value = blend(Element<T>::read(plane[offset]), Element<T>::read(second[offset]),
                          Element<T>::read(third[offset]), Element<T>::read(fourth[offset]), by, k);
    to[k] = Filled ? product(value - fill, by.mask[k]) + fill : value;
  }
}

// The four bytes from a level on.
inline uint32_t word_at(const uint8_t* from) {
  uint32_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// Corners of pixels of three packed levels, a word each.
struct PackedCorners {
  uint32_t of[4][kRun];
};

[[gnu::noinline]] inline void gather_packed(const uint8_t* image, int64_t across, const int32_t* __restrict offset,
                                            int64_t begin, int64_t end, PackedCorners& to) {
  uint32_t* __restrict c0 = to.of[0];
  uint32_t* __restrict c1 = to.of[1], * __restrict c2 = to.of[2], * __restrict c3 = to.of[3];
  for (int64_t k = begin; k < end; ++k) {
    // Six bytes of either row are two pixels, of which no byte beyond is read.
    const uint8_t *high = image + offset[k], *low = high + across;
    c0[k] = word_at(high), c1[k] = word_at(high + 2) >> 8;
    c2[k] = word_at(low), c3[k] = word_at(low + 2) >> 8;
  }
}

// Three levels a word, in the first, second and third byte.
template <bool Filled>
[[gnu::noinline]] void read_packed(const PackedCorners& corners, const Weights<float>& by, int64_t begin, int64_t end,
                                   const float (&fills)[3], uint32_t* __restrict to) {
  const float fill0 = fills[0], fill1 = fills[1], fill2 = fills[2];
  const uint32_t *c0 = corners.of[0], *c1 = corners.of[1], *c2 = corners.of[2], *c3 = corners.of[3];
  const auto level = [&](int shift, float fill, int64_t k) {
    const auto part = [shift](uint32_t word) { return static_cast<float>(static_cast<int32_t>(word >> shift & 255)); };
    const float value = blend(part(c0[k]), part(c1[k]), part(c2[k]), part(c3[k]), by, k);
    // No sum of levels rounds to more than 255.
    return static_cast<uint32_t>(
        static_cast<int32_t>(rintf(Filled ? product(value - fill, by.mask[k]) + fill : value)));
  };
  HANDGRAD_SIMD
  for (int64_t k = begin; k < end; ++k) {
    to[k] = level(0, fill0, k) | level(8, fill1, k) << 8 | level(16, fill2, k) << 16;
  }
}

inline void store_packed(const uint32_t* words, int64_t count, uint8_t* to) {
  for (int64_t k = 0; k + 1 < count; ++k) std::memcpy(to + 3 * k, words + k, 4);
  if (count > 0) std::memcpy(to + 3 * (count - 1), words + count - 1, 3);
}

// ---- a run ----------------------------------------------------------------------------------------------------------

// Reads image n of elements of T.
template <class T>
class RowReader {
 public:
  using C = typename Element<T>::C;

  RowReader(const ImageFrame& frame, const Tensor& image, const Tensor& output, const std::vector<double>& fill)
      : frame_(frame), image_(view<T, 4>(image)), output_(mutable_view<T, 4>(output)) {
    for (int64_t c = 0; c < frame.channels; ++c) fills_.push_back(static_cast<C>(fill_of(fill, c)));
    const int64_t* steps = image_.strides;
    const int64_t reach = (frame.height - 1) * steps[2] + (frame.width - 1) * steps[3];
    fits_ = steps[2] >= 0 && steps[3] >= 0 && reach < INT32_MAX && steps[2] < INT32_MAX;
    is_packed_ = sizeof(T) == 1 && frame.channels == 3 && steps[1] == 1 && steps[3] == 3 && output_.strides[1] == 1 &&
                 output_.strides[3] == 3;
  }

  C* x() { return at_.x; }
  C* y() { return at_.y; }

  // Pixels [begin, begin + count) of row i of image n, whose x and y are found.
  void read_run(int64_t n, int64_t i, int64_t begin, int64_t count) {
    find_corners(frame_, count, at_);
    int64_t low = 0, high = count, first = 0, last = count, inside = 0;
    for (int64_t k = 0; k < count; ++k) inside += at_.where[k] == 2;
    while (low < count && at_.where[low] == 0) ++low;
    while (high > low && at_.where[high - 1] == 0) --high;
    first = low, last = high;
    while (first < high && at_.where[first] != 2) ++first;
    while (last > first && at_.where[last - 1] != 2) --last;
    surround(n, i, begin, 0, low);
    if (!fits_) {
      read_border(n, i, begin, low, high);
    } else if (last - first != inside) {
      read_broken(n, i, begin, low, high);
    } else {
      read_border(n, i, begin, low, first);
      if (first < last) read_inside(n, i, begin, first, last);
      read_border(n, i, begin, last, high);
    }
    surround(n, i, begin, high, count);
  }

 private:
  const ImageFrame frame_;
  View<const T, 4> image_;
  View<T, 4> output_;
  std::vector<C> fills_;
  bool fits_, is_packed_;
  RunPoints<C> at_;
  Weights<C> weights_;
  PackedCorners corners_;
  uint32_t words_[kRun];
  C values_[kRun];

  void surround(int64_t n, int64_t i, int64_t begin, int64_t low, int64_t high) {
    for (int64_t c = 0; c < frame_.channels && low < high; ++c) {
      const T level = Element<T>::made(frame_.filled ? fills_[static_cast<size_t>(c)] : C(0));
      T* to = output_.at(n, c, i, begin);
      for (int64_t k = low; k < high; ++k) to[k * output_.strides[3]] = level;
    }
  }

  // Where what is inside is no single stretch.
  void read_broken(int64_t n, int64_t i, int64_t begin, int64_t low, int64_t high) {
    for (int64_t first = low; first < high;) {
      int64_t last = first + 1;
      while (last < high && at_.where[last] == at_.where[first]) ++last;
      if (at_.where[first] == 2) read_inside(n, i, begin, first, last);
      if (at_.where[first] == 1) read_border(n, i, begin, first, last);
      if (at_.where[first] == 0) surround(n, i, begin, first, last);
      first = last;
    }
  }

  void read_border(int64_t n, int64_t i, int64_t begin, int64_t low, int64_t high) {
    for (int64_t k = low; k < high; ++k) {
      const ImageSample<C> sample(frame_, Point<C>{at_.x[k], at_.y[k]});
      for (int64_t c = 0; c < frame_.channels; ++c) {
        const C value = sample.value(frame_, [&](int q) {
          return Element<T>::read(*image_.at(n, c, sample.row + q / 2, sample.column + q % 2));
        });
        *output_.at(n, c, i, begin + k) =
            Element<T>::made(sample.filled(frame_, value, fills_[static_cast<size_t>(c)]));
      }
    }
  }

  void read_inside(int64_t n, int64_t i, int64_t begin, int64_t first, int64_t last) {
    const int64_t across = image_.strides[2], along = image_.strides[3];
    if (!frame_.bilinear) return copy_inside(n, i, begin, first, last);
    weigh(at_, first, last, across, along, weights_);
    if constexpr (sizeof(T) == 1) {
      if (is_packed_) {
        gather_packed(image_.at(n, 0, 0, 0), across, weights_.offset, first, last, corners_);
        const float fills[3] = {fills_[0], fills_[1], fills_[2]};
        (frame_.filled ? read_packed<true> : read_packed<false>)(corners_, weights_, first, last, fills, words_);
        return store_packed(words_ + first, last - first, output_.at(n, 0, i, begin + first));
      }
    }
    for (int64_t c = 0; c < frame_.channels; ++c) {
      (frame_.filled ? read_plane<true, T, C> : read_plane<false, T, C>)(image_.at(n, c, 0, 0), across, along, weights_,
                                                                         first, last, fills_[static_cast<size_t>(c)],
                                                                         values_);
      store_values(output_.at(n, c, i, begin), first, last);
    }
  }

  [[gnu::noinline]] void store_values(T* __restrict to, int64_t first, int64_t last) {
    const int64_t step = output_.strides[3];
    const C* values = values_;
    if (step == 1) {
      HANDGRAD_SIMD
      for (int64_t k = first; k < last; ++k) to[k] = Element<T>::made(values[k]);
    } else {
      for (int64_t k = first; k < last; ++k) to[k * step] = Element<T>::made(values[k]);
    }
  }

  [[gnu::noinline]] void copy_inside(int64_t n, int64_t i, int64_t begin, int64_t first, int64_t last) {
    const int64_t across = image_.strides[2], along = image_.strides[3], step = output_.strides[3];
    const int64_t to_channel = output_.strides[1], of_channel = image_.strides[1];
    const T* from = image_.at(n, 0, 0, 0);
    T* to = output_.at(n, 0, i, begin);
    for (int64_t k = first; k < last; ++k) {
      const T* pixel = from + at_.row[k] * across + at_.column[k] * along;
      for (int64_t c = 0; c < frame_.channels; ++c) to[k * step + c * to_channel] = pixel[c * of_channel];
    }
  }
};

// All images, their rows split over threads.
template <class T, class Places>
void read_images(const ImageFrame& frame, const Places& places, const std::vector<double>& fill, const Tensor& image,
                 const Tensor& output) {
  using C = typename Element<T>::C;
  const int64_t rows = frame.out_height;
  parallel_for(frame.batch * rows, frame.channels * frame.out_width, [&](int64_t begin, int64_t end) {
    RowReader<T> reader(frame, image, output, fill);
    for (int64_t index = begin; index < end;) {
      const int64_t n = index / rows, last = std::min(end, (n + 1) * rows);
      const auto of_image = places.template of_image<C>(n);
      for (; index < last; ++index) {
        for (int64_t j = 0; j < frame.out_width; j += kRun) {
          const int64_t i = index - n * rows, count = std::min(kRun, frame.out_width - j);
          find_points(of_image, i, j, count, reader.x(), reader.y());
          reader.read_run(n, i, j, count);
        }
      }
    }
  });
}

}  // namespace handgrad::image_sample
