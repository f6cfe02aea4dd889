// Bins of boxes on the CPU, channels innermost.
//
// In order of appearance: by_fours; gather and scatter, weighted sums of some pixels and the transpose; BinTile, some
// bins of one box between the kernels and memory.
#pragma once

#include "cpu/channel_blocks.h"

namespace handgrad {

// body(constant of 1 to 4, first) until `count` pixels are dealt with. Inlined, as all below, so that sums stay in
// registers.
template <class Body>
[[gnu::always_inline]] inline void by_fours(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) body(std::integral_constant<int, 4>(), i);
  switch (count - i) {
    case 3: body(std::integral_constant<int, 3>(), i); break;
    case 2: body(std::integral_constant<int, 2>(), i); break;
    case 1: body(std::integral_constant<int, 1>(), i); break;
    default: break;
  }
}

// to += weights x pixels
template <int64_t Width, int Count, class C>
inline void gather(const C* const (&pixels)[Count], const C (&weights)[Count], C* __restrict to) {
  HANDGRAD_SIMD
  for (int64_t c = 0; c < Width; ++c) {
    C sum = weights[0] * pixels[0][c];
    for (int k = 1; k < Count; ++k) sum += weights[k] * pixels[k][c];
    to[c] += sum;
  }
}

// pixels += weights x from
template <int64_t Width, int Count, class C>
inline void scatter(const C* __restrict from, const C (&weights)[Count], C* const (&pixels)[Count]) {
  HANDGRAD_SIMD
  for (int64_t c = 0; c < Width; ++c) {
    for (int k = 0; k < Count; ++k) pixels[k][c] += weights[k] * from[c];
  }
}

// Some rows of bins of one box: as many as fit the first-level cache.
template <class C, int64_t Width>
class BinTile {
 public:
  BinTile(int64_t pooled_h, int64_t pooled_w)
      : rows_(std::clamp<int64_t>(200 / pooled_w, 1, pooled_h)),
        columns_(pooled_w),
        all_rows_(pooled_h),
        memory_(static_cast<size_t>(rows_ * columns_ * Width)) {}

  int64_t bins() const { return rows_ * columns_; }
  C* at(int64_t row, int64_t column) { return memory_.data() + (row * columns_ + column) * Width; }
  void fill(C value) { std::fill(memory_.begin(), memory_.end(), value); }

  // body(first row, how many) for all rows of bins.
  template <class Body>
  void for_each(const Body& body) const {
    for (int64_t p = 0; p < all_rows_; p += rows_) body(p, std::min(rows_, all_rows_ - p));
  }

  void load(const StoredView<const C, 4>& from,  // [K, C, pooled_h, pooled_w]
            int64_t k, const ChannelBlock& block, int64_t p, int64_t count, Transposer<Width, C>& scratch) {
    const int64_t* s = from.strides;
    if (s[2] == columns_ * s[3]) {
      load_pixels<Width>(row(from, k, block, p), block.count, count * columns_, scratch, memory_.data(), Width);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        load_pixels<Width>(row(from, k, block, p + i), block.count, columns_, scratch, at(i, 0), Width);
      }
    }
  }

  void store(const StoredView<C, 4>& to,  // [K, C, pooled_h, pooled_w]
             int64_t k, const ChannelBlock& block, int64_t p, int64_t count, Transposer<Width, C>& scratch) {
    // A result is dense: its rows follow each other in either layout.
    store_pixels<Width>(memory_.data(), Width, block.count, count * columns_, scratch, row(to, k, block, p));
  }

 private:
  template <class P>
  static PixelRow<P> row(const StoredView<P, 4>& view, int64_t k, const ChannelBlock& block, int64_t p) {
    return {view.at(k, block.first, p, 0), view.strides[1], view.strides[3]};
  }

  int64_t rows_, columns_, all_rows_;
  ScratchVector<C> memory_;
};

}  // namespace handgrad
