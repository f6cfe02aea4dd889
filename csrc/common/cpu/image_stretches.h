// A stretch of pixels of a row of the output, which are read from inside an image, on the CPU: loops that ask for no
// border. Where a run of pixels is read comes first, in lanes.
//
// In order of appearance: points of a run; stretches between pixels, by planes and by packed levels; stretches of
// nearest pixels.
#pragma once

#include <cstring>

#include "abi/dtype.h"
#include "math/convert.h"
#include "math/image_sample.h"

namespace handgrad::image_sample {

inline constexpr int64_t kRun = 256;

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
  return fused_multiply_add(
      v3, by.corner[3][k],
      fused_multiply_add(v2, by.corner[2][k], fused_multiply_add(v1, by.corner[1][k], product(v0, by.corner[0][k]))));
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

// ---- a stretch of nearest pixels ------------------------------------------------------------------------------------

// Where they are. Returns the farthest.
template <class C>
[[gnu::noinline]] int32_t find_offsets(const RunPoints<C>& at, int64_t begin, int64_t end, int64_t across,
                                       int64_t along, int32_t* __restrict to) {
  const int32_t row = static_cast<int32_t>(across), column = static_cast<int32_t>(along);
  int32_t farthest = 0;
#pragma omp simd reduction(max : farthest)
  for (int64_t k = begin; k < end; ++k) {
    const int32_t offset = at.row[k] * row + at.column[k] * column;
    farthest = offset > farthest ? offset : farthest;
    to[k] = offset;
  }
  return farthest;
}

// Pixels of Count elements side by side. `to` is where pixel 0 would be.
template <int Count, class T>
[[gnu::noinline]] void copy_pixels(const T* from, const int32_t* __restrict offset, int64_t begin, int64_t end,
                                   T* __restrict to) {
  for (int64_t k = begin; k < end; ++k) std::memcpy(to + Count * k, from + offset[k], Count * sizeof(T));
}

// The same of three levels, a word at a time: the fourth byte is the next pixel's, which then is written over it. No
// offset leads to a word that ends outside the image.
[[gnu::noinline]] inline void copy_packed(const uint8_t* from, const int32_t* __restrict offset, int64_t begin,
                                          int64_t end, uint8_t* __restrict to) {
  for (int64_t k = begin; k + 1 < end; ++k) std::memcpy(to + 3 * k, from + offset[k], 4);
  std::memcpy(to + 3 * (end - 1), from + offset[end - 1], 3);
}

template <class T, class Step>
[[gnu::noinline]] void copy_plane(const T* from, const int32_t* __restrict offset, int64_t begin, int64_t end,
                                  T* __restrict to, Step step) {
  for (int64_t k = begin; k < end; ++k) to[k * step] = from[offset[k]];
}

}  // namespace handgrad::image_sample
