// An image is read at the points of a row of the output, on the CPU, some hundred pixels at a time. Of what is read,
// pixels whose corners all lie in the image are stretches (cpu/image_stretches.h); beside them lie a few pixels at the
// border, one by one, and what is outside. An op says where its points are (math/image_sample.h), and has
// find_points(places of an image, row, first column, count, x, y).
//
// In order of appearance: a run; all images.
#pragma once

#include <algorithm>

#include "abi/images.h"
#include "abi/view.h"
#include "cpu/image_stretches.h"
#include "cpu/parallel.h"

namespace handgrad::image_sample {

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
    if constexpr (sizeof(T) == 1) {
      if (is_packed_) return surround_packed(output_.at(n, 0, i, begin), low, high);
    }
    for (int64_t c = 0; c < frame_.channels && low < high; ++c) {
      const T level = Element<T>::made(frame_.filled ? fills_[static_cast<size_t>(c)] : C(0));
      T* to = output_.at(n, c, i, begin);
      for (int64_t k = low; k < high; ++k) to[k * output_.strides[3]] = level;
    }
  }

  void surround_packed(uint8_t* to, int64_t low, int64_t high) {
    uint32_t word = 0;
    for (int c = 0; c < 3 && frame_.filled; ++c) word |= uint32_t{Element<uint8_t>::made(fills_[c])} << 8 * c;
    std::fill(words_ + low, words_ + high, word);
    store_packed(words_ + low, high - low, to + 3 * low);
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

  void copy_inside(int64_t n, int64_t i, int64_t begin, int64_t first, int64_t last) {
    const int64_t *of = image_.strides, *to = output_.strides;
    int32_t* offset = weights_.offset;
    const int32_t farthest = find_offsets(at_, first, last, of[2], of[3], offset);
    const T* from = image_.at(n, 0, 0, 0);
    T* row = output_.at(n, 0, i, begin);
    const bool side_by_side = of[1] == 1 && to[1] == 1 && to[3] == frame_.channels;
    if (side_by_side && frame_.channels == 3) {
      if constexpr (sizeof(T) == 1) {
        const int64_t bytes = (frame_.height - 1) * of[2] + (frame_.width - 1) * of[3] + 3;
        if (int64_t{farthest} + 4 <= bytes) return copy_packed(from, offset, first, last, row);
      }
      return copy_pixels<3>(from, offset, first, last, row);
    }
    if (side_by_side && frame_.channels == 4) return copy_pixels<4>(from, offset, first, last, row);
    for (int64_t c = 0; c < frame_.channels; ++c, from += of[1], row += to[1]) {
      if (to[3] == 1) {
        copy_plane(from, offset, first, last, row, std::integral_constant<int64_t, 1>{});
      } else {
        copy_plane(from, offset, first, last, row, to[3]);
      }
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
