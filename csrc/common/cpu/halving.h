// Images of half the size on the CPU: means of 2 x 2 (x 2) pixels. The last of an odd number has no part.
#pragma once

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "math/halving.h"

namespace handgrad {

struct HalvingOnCpu {
  // `to` is dense, as Halving has its extents.
  template <class C>
  static void halve(const char*, const Tensor&, const Halving& halving, const StoredView<const C, 5>& from, C* to) {
    const int64_t width = halving.extent[2];
    parallel_for(halving.rows(), width << halving.count, [&](int64_t begin, int64_t end) {
      ScratchVector<C> memory(static_cast<size_t>(8 * width));
      for (int64_t row = begin; row < end; ++row) {
        const HalvedRow at = halving.row(row);
        const C* rows[4];
        for (int k = 0; k < halving.rows_of_one(); ++k) {
          const Stored<const C> first = from.at(at.n, at.c, at.slice + k / 2, at.line + k % 2, 0);
          if (first.is_computed_in() && from.strides[4] == 1) {
            rows[k] = first.in_place();
            continue;
          }
          C* const copy = memory.data() + 2 * k * width;
          load_run(first, from.strides[4], 2 * width, copy);
          rows[k] = copy;
        }
        C* const results = to + row * width;
        if (halving.count == 2) {
          mean_of_rows<2>(rows, width, results);
        } else {
          mean_of_rows<4>(rows, width, results);
        }
      }
    });
  }

 private:
  template <int Rows, class C>
  [[gnu::noinline]] static void mean_of_rows(const C* const (&rows)[4], int64_t width, C* __restrict to) {
    const C *a = rows[0], *b = rows[1], *c = rows[Rows - 2], *d = rows[Rows - 1];
    HANDGRAD_SIMD
    for (int64_t w = 0; w < width; ++w) {
      C total = (a[2 * w] + a[2 * w + 1]) + (b[2 * w] + b[2 * w + 1]);
      if constexpr (Rows == 4) total += (c[2 * w] + c[2 * w + 1]) + (d[2 * w] + d[2 * w + 1]);
      to[w] = C(0.5 / Rows) * total;
    }
  }
};

}  // namespace handgrad
