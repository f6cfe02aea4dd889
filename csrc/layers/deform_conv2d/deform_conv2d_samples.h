// The samples of a deformable convolution on the CPU: the pixels around them, channels innermost, and the loops over
// the channels of one sample.
//
// In order of appearance: RowRange, the rows of an image that a band looks at; PixelRows, these rows; GradRows, the
// same rows of the gradient; the innermost loops.
#pragma once

#include <cmath>

#include "cpu/bilinear.h"
#include "deform_conv2d_tiles.h"

namespace handgrad::deform_conv2d {

// The rows [first, last) of an image.
struct RowRange {
  int64_t first, last;
};

template <class C>
RowRange rows_of(const Geometry& geometry, const Plan& plan,
                 const StoredView<const C, 4>& offset,  // [N, 2 * offset_groups * taps, out_h, out_w]
                 const Band& band) {
  ScratchVector<C> memory(static_cast<size_t>(plan.tile));
  const C height = static_cast<C>(geometry.height);
  C lowest = height, highest = C(-1);
  for (int64_t plane = 0; plane < geometry.offset_groups * geometry.taps; ++plane) {
    for_each_tile(plan, band, [&](const Tile& tile) {
      load_plane(geometry, offset, tile, 2 * plane, memory.data());
      add_base<C>(geometry, plane % geometry.taps, tile, memory.data(), nullptr);
      const C* y = memory.data();
      C low = lowest, high = highest;
#pragma omp simd reduction(min : low) reduction(max : high)
      for (int64_t i = 0; i < tile.count; ++i) {
        const bool inside = y[i] >= C(-1) && y[i] < height;
        const C as_low = inside ? y[i] : height, as_high = inside ? y[i] : C(-1);
        low = as_low < low ? as_low : low;
        high = as_high > high ? as_high : high;
      }
      lowest = low, highest = high;
    });
  }
  if (lowest > highest) return {0, 0};
  return {std::max<int64_t>(0, static_cast<int64_t>(std::floor(lowest))),
          std::min<int64_t>(geometry.height, static_cast<int64_t>(std::floor(highest)) + 2)};
}

// Numbers between neighbouring pixels of a copy: whole blocks of channels, those that there are none of being unused.
inline int64_t pixel_group(const Geometry& geometry) {
  return (geometry.channels + kFewChannels - 1) / kFewChannels * kFewChannels;
}

// Some rows of an image, channels innermost: used in place if already channels-last, or a copy.
template <class C>
class PixelRows {
 public:
  PixelRows(const Geometry& geometry, const StoredView<const C, 4>& image,  // [N, C, H, W]
            int64_t n, RowRange rows)
      : first_(rows.first), zeros_(static_cast<size_t>(geometry.channels)) {
    if (image.first.is_computed_in() && image.strides[1] == 1) {
      base_ = image.at(n, 0, rows.first, 0).in_place();
      row_stride_ = image.strides[2];
      pixel_stride_ = image.strides[3];
      return;
    }
    pixel_stride_ = pixel_group(geometry);
    row_stride_ = geometry.width * pixel_stride_;
    copy_.resize(static_cast<size_t>((rows.last - rows.first) * row_stride_));
    base_ = copy_.data();
    Transposer<kFewChannels, C> scratch(geometry.width);
    for (int64_t y = rows.first; y < rows.last; ++y) {
      load_pixels<kFewChannels>({image.at(n, 0, y, 0), image.strides[1], image.strides[3]}, geometry.channels,
                                geometry.width, scratch, copy_.data() + (y - rows.first) * row_stride_, pixel_stride_);
    }
  }

  // Channel c of the four corners of a sample.
  void corners(const DeformedSample<C>& sample, int64_t c, const C* (&to)[4]) const {
    const C* from = base_ + (sample.row - first_) * row_stride_ + sample.column * pixel_stride_ + c;
    for (int q = 0; q < 4; ++q) {
      to[q] = sample.has(q) ? from + q / 2 * row_stride_ + q % 2 * pixel_stride_ : zeros_.data() + c;
    }
  }

 private:
  const C* base_ = nullptr;
  int64_t row_stride_ = 0, pixel_stride_ = 0, first_ = 0;
  ScratchVector<C> copy_, zeros_;
};

// What one band adds to the gradient of its image: the same rows, and four runs that nobody reads, for corners that are
// no pixels.
template <class C>
class GradRows {
 public:
  GradRows() = default;
  GradRows(const Geometry& geometry, RowRange rows)
      : rows_(rows),
        row_stride_(geometry.width * pixel_group(geometry)),
        pixel_stride_(pixel_group(geometry)),
        sums_(static_cast<size_t>((rows.last - rows.first) * row_stride_)),
        unread_(static_cast<size_t>(4 * pixel_stride_)) {}

  void corners(const DeformedSample<C>& sample, int64_t c, C* (&to)[4]) {
    for (int q = 0; q < 4; ++q) {
      to[q] = sample.has(q) ? sums_.data() + (sample.row - rows_.first + q / 2) * row_stride_ +
                                  (sample.column + q % 2) * pixel_stride_ + c
                            : unread_.data() + q * pixel_stride_ + c;
    }
  }

  void add_row(int64_t y, C* __restrict row) const {
    if (y < rows_.first || y >= rows_.last) return;
    const C* added = sums_.data() + (y - rows_.first) * row_stride_;
    HANDGRAD_SIMD
    for (int64_t i = 0; i < row_stride_; ++i) row[i] += added[i];
  }

 private:
  RowRange rows_{0, 0};
  int64_t row_stride_ = 0, pixel_stride_ = 0;
  ScratchVector<C> sums_, unread_;
};

// Stores rows of the gradient of an image, one after the other.
template <class C>
class GradRowStore {
 public:
  explicit GradRowStore(const Geometry& geometry)
      : geometry_(geometry),
        group_(pixel_group(geometry)),
        row_(static_cast<size_t>(geometry.width * group_)),
        scratch_(geometry.width) {}

  // Row y of image n: the sum of `count` bands in their order.
  void store(const GradRows<C>* bands, int64_t count, int64_t n, int64_t y, const StoredView<C, 4>& to) {
    std::fill(row_.begin(), row_.end(), C(0));
    for (int64_t band = 0; band < count; ++band) bands[band].add_row(y, row_.data());
    store_pixels<kFewChannels>(row_.data(), group_, geometry_.channels, geometry_.width, scratch_,
                               {to.at(n, 0, y, 0), to.strides[1], to.strides[3]});
  }

 private:
  const Geometry& geometry_;
  int64_t group_;
  ScratchVector<C> row_;
  Transposer<kFewChannels, C> scratch_;
};

// ---- innermost loops: all channels of one sample --------------------------------------------------------------------

// One step further. v: corners of grad_grad_input; change: how the weights change; h: the gradient of the column with
// respect to grad_grad_weight.
template <bool Columns, bool Scatter, bool Sums, class C>
void differentiate_channels_twice(int64_t count, const C* const (&x)[4], const C* const (&v)[4], const C (&weight)[4],
                                  const C (&change)[4], const C* __restrict grad, const C* __restrict h,
                                  C* __restrict column, C* __restrict v_column, C* const (&grad_x)[4], C (&of_input)[4],
                                  C (&of_v)[4], C (&of_h)[4]) {
  if constexpr (Columns) {
    for (int64_t c = 0; c < count; ++c) column[c] = v_column[c] = 0;
  }
  for (int q = 0; q < 4; ++q) {
    const C *xq = x[q], *vq = v[q];
    C* __restrict gq = grad_x[q];
    const C a = weight[q], b = change[q];
    C sum_input = 0, sum_v = 0, sum_h = 0;
#pragma omp simd reduction(+ : sum_input, sum_v, sum_h)
    for (int64_t c = 0; c < count; ++c) {
      if constexpr (Columns) {
        column[c] += a * xq[c];
        v_column[c] += b * xq[c] + a * vq[c];
      }
      if constexpr (Scatter) gq[c] += b * grad[c] + a * h[c];
      if constexpr (Sums) {
        sum_input += grad[c] * xq[c];
        sum_v += grad[c] * vq[c];
        sum_h += h[c] * xq[c];
      }
    }
    of_input[q] = sum_input, of_v[q] = sum_v, of_h[q] = sum_h;
  }
}

}  // namespace handgrad::deform_conv2d
