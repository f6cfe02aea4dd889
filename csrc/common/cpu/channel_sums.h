// The sum of each channel of (batch, channels, positions…) on the CPU: in double, in pieces that depend on the shape
// alone.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "math/stored.h"

namespace handgrad {

// sums: [C], dense.
template <class C>
void channel_sums(const Tensor& tensor, C* sums) {
  constexpr int64_t kRun = 512, kPiece = 16384;
  const ChannelTensor given(tensor);
  const StoredView<const C, 3> view = stored_view<C>(given);
  const int64_t channels = given.channels, positions = given.positions;
  // Some positions of all channels where these are innermost, else some of one.
  const bool rows = given.channels_innermost();
  const int64_t width = rows ? channels : 1, span = std::max<int64_t>(1, kPiece / width);
  const int64_t spans = (positions + span - 1) / span, columns = rows ? 1 : channels;
  const int64_t pieces = given.batch * columns * spans;
  std::vector<double> partial(static_cast<size_t>(pieces * width), 0.0);
  parallel_for(pieces, std::min(span, positions) * width, [&](int64_t first, int64_t last) {
    ScratchVector<C> run(kRun);
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t column = piece / spans, n = column / columns, c = column % columns;
      const int64_t begin = piece % spans * span, end = std::min(positions, begin + span);
      double* const to = partial.data() + piece * width;
      if (!rows) {
        for (int64_t p = begin; p < end; p += kRun) {
          const int64_t count = std::min(kRun, end - p);
          load_run(view.at(n, c, p), view.strides[2], count, run.data());
          C sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int64_t i = 0; i < count; ++i) sum += run[static_cast<size_t>(i)];
          *to += static_cast<double>(sum);
        }
        continue;
      }
      for (int64_t p = begin; p < end; ++p) {
        for (int64_t k = 0; k < channels; k += kRun) {
          const int64_t count = std::min(kRun, channels - k);
          load_run(view.at(n, k, p), 1, count, run.data());
          for (int64_t i = 0; i < count; ++i) to[k + i] += static_cast<double>(run[static_cast<size_t>(i)]);
        }
      }
    }
  });
  std::vector<double> total(static_cast<size_t>(channels), 0.0);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    double* const to = total.data() + (rows ? 0 : piece / spans % columns);
    for (int64_t k = 0; k < width; ++k) to[k] += partial[static_cast<size_t>(piece * width + k)];
  }
  for (int64_t c = 0; c < channels; ++c) sums[c] = static_cast<C>(total[static_cast<size_t>(c)]);
}

}  // namespace handgrad
