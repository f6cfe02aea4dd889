// Sums over the pixels of a bin on the CPU, channels innermost.
//
// In order of appearance: gather_bin and scatter_bin, a bin and its transpose; RowSums and CoordinateSums, what the
// derivatives with respect to a box's coordinates are made of; differentiate_bin and its own derivative.
#pragma once

#include "cpu/box_bins.h"
#include "roi_align_taps.h"

namespace handgrad::roi_align {

// How a row's and a column's weight change along a motion of the box, its tangent.
template <class C>
inline C row_change(const Box<C>& motion, const Tap<C>& row) {
  return motion.y1 * row.d_first + motion.y2 * row.d_second;
}
template <class C>
inline C column_change(const Box<C>& motion, const Tap<C>& column) {
  return motion.x1 * column.d_first + motion.x2 * column.d_second;
}

// What a bin weighs a pixel by; with a motion, how that changes.
template <bool Moving, class C>
inline C pixel_weight(const Tap<C>& row, const Tap<C>& column, const Box<C>& motion) {
  return Moving ? row_change(motion, row) * column.weight + row.weight * column_change(motion, column)
                : row.weight * column.weight;
}

// Calls body(pixels of `plane`, their weights) for the pixels of a bin, up to four at a time.
template <bool Moving, class P, class C, class Body>
inline void for_each_pixel(const BlockPlane<P>& plane, const Taps<C>& rows, const Taps<C>& columns,
                           const Box<C>& motion, const Body& body) {
  for (int64_t r = 0; r < rows.count; ++r) {
    const Tap<C>& row = rows.data[r];
    by_fours(columns.count, [&](auto count, int64_t first) {
      P* pixels[count.value];
      C weights[count.value];
      for (int k = 0; k < count.value; ++k) {
        const Tap<C>& column = columns.data[first + k];
        pixels[k] = plane.at(row.pixel, column.pixel);
        weights[k] = pixel_weight<Moving>(row, column, motion);
      }
      body(pixels, weights);
    });
  }
}

// Adds the pixels of a bin by what it weighs them by; with a motion, by how that changes.
template <int64_t Width, bool Moving, class C>
[[gnu::always_inline]] inline void gather_bin(const BlockPlane<const C>& plane, const Taps<C>& rows,
                                              const Taps<C>& columns, const Box<C>& motion, C* to) {
  for_each_pixel<Moving>(plane, rows, columns, motion,
                         [&](const auto& pixels, const auto& weights) { gather<Width>(pixels, weights, to); });
}

// Adds to the pixels of a bin what they weigh; with a motion, how that changes.
template <int64_t Width, bool Moving, class C>
[[gnu::always_inline]] inline void scatter_bin(const C* from, const Taps<C>& rows, const Taps<C>& columns,
                                               const Box<C>& motion, const BlockPlane<C>& plane) {
  for_each_pixel<Moving>(plane, rows, columns, motion,
                         [&](const auto& pixels, const auto& weights) { scatter<Width>(from, weights, pixels); });
}

// A row of pixels, summed with the columns' weights and with the derivatives of these.
template <class C, int64_t Width>
struct RowSums {
  alignas(64) C plain[Width], d_first[Width], d_second[Width];

  void clear() {
    for (int64_t c = 0; c < Width; ++c) plain[c] = d_first[c] = d_second[c] = C(0);
  }

  [[gnu::always_inline]] void load(const BlockPlane<const C>& plane, int64_t y, const Taps<C>& columns) {
    clear();
    by_fours(columns.count, [&](auto count, int64_t start) {
      constexpr int Count = count.value;
      const C* pixels[Count];
      C weights[Count], firsts[Count], seconds[Count];
      for (int k = 0; k < Count; ++k) {
        const Tap<C>& tap = columns.data[start + k];
        pixels[k] = plane.at(y, tap.pixel);
        weights[k] = tap.weight, firsts[k] = tap.d_first, seconds[k] = tap.d_second;
      }
      HANDGRAD_SIMD
      for (int64_t c = 0; c < Width; ++c) {
        C sums[3] = {};
        for (int k = 0; k < Count; ++k) {
          const C pixel = pixels[k][c];
          sums[0] += weights[k] * pixel;
          sums[1] += firsts[k] * pixel;
          sums[2] += seconds[k] * pixel;
        }
        plain[c] += sums[0], d_first[c] += sums[1], d_second[c] += sums[2];
      }
    });
  }
};

// The gradient of a box's four coordinates, for each channel of a block; over channels it is summed at the end.
template <class C, int64_t Width>
struct CoordinateSums {
  alignas(64) C x1[Width] = {}, y1[Width] = {}, x2[Width] = {}, y2[Width] = {};

  void store(C* to) const {
    for (int64_t k = 0; k < 4; ++k) {
      const C* from = k == 0 ? x1 : k == 1 ? y1 : k == 2 ? x2 : y2;
      C sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < Width; ++c) sum += from[c];
      to[k] = sum;
    }
  }
};

// sums += the derivatives of a bin with respect to the coordinates, times its gradient.
template <int64_t Width, class C>
[[gnu::always_inline]] inline void differentiate_bin(const BlockPlane<const C>& plane, const Taps<C>& rows,
                                                     const Taps<C>& columns, const C* __restrict grad,
                                                     CoordinateSums<C, Width>& sums) {
  for (int64_t r = 0; r < rows.count; ++r) {
    const Tap<C>& row = rows.data[r];
    RowSums<C, Width> pixels;
    pixels.load(plane, row.pixel, columns);
    HANDGRAD_SIMD
    for (int64_t c = 0; c < Width; ++c) {
      const C along_row = grad[c] * pixels.plain[c], weighed = grad[c] * row.weight;
      sums.y1[c] += row.d_first * along_row;
      sums.y2[c] += row.d_second * along_row;
      sums.x1[c] += weighed * pixels.d_first[c];
      sums.x2[c] += weighed * pixels.d_second[c];
    }
  }
}

// The same of the bin's change under a motion of the image (`v_plane`; without data it stands still) and of the box;
// `change` is that change.
template <int64_t Width, class C>
[[gnu::always_inline]] inline void differentiate_bin_twice(const BlockPlane<const C>& plane,
                                                           const BlockPlane<const C>& v_plane, const Taps<C>& rows,
                                                           const Taps<C>& columns, const Box<C>& motion,
                                                           const C* __restrict grad, C* __restrict change,
                                                           CoordinateSums<C, Width>& sums) {
  for (int64_t r = 0; r < rows.count; ++r) {
    const Tap<C>& row = rows.data[r];
    const C weight_change = row_change(motion, row);
    RowSums<C, Width> pixels, v_pixels;
    pixels.load(plane, row.pixel, columns);
    if (v_plane.data) {
      v_pixels.load(v_plane, row.pixel, columns);
    } else {
      v_pixels.clear();
    }
    HANDGRAD_SIMD
    for (int64_t c = 0; c < Width; ++c) {
      const C along_row = v_pixels.plain[c] + motion.x1 * pixels.d_first[c] + motion.x2 * pixels.d_second[c];
      change[c] += row.weight * along_row + weight_change * pixels.plain[c];
      sums.y1[c] += row.d_first * grad[c] * along_row;
      sums.y2[c] += row.d_second * grad[c] * along_row;
      sums.x1[c] += grad[c] * (row.weight * v_pixels.d_first[c] + weight_change * pixels.d_first[c]);
      sums.x2[c] += grad[c] * (row.weight * v_pixels.d_second[c] + weight_change * pixels.d_second[c]);
    }
  }
}

}  // namespace handgrad::roi_align
