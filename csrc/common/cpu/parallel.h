// Work split over torch's threads, with results that do not depend on how many there are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "abi/tensor.h"

namespace handgrad {

// Below this many elements a second thread costs more than it saves.
inline constexpr int64_t kElementsPerThread = 32768;

// body(begin, end) over pieces of [0, count); a piece has at least kElementsPerThread elements if each of the `count`
// items stands for `elements_per_item` of them.
template <class Body>
void parallel_for(int64_t count, int64_t elements_per_item, const Body& body) {
  if (count <= 0) return;
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, elements_per_item));
  if (count <= grain) {
    body(int64_t{0}, count);
  } else {
    torch::stable::parallel_for(0, count, grain, body);
  }
}

// The sum over [0, count) of body(begin, end), a double, taken over chunks whose bounds depend on `count` alone; the
// partial sums are then added in order. So the result is the same, to the bit, for any number of threads.
template <class Body>
double parallel_sum(int64_t count, int64_t smallest_chunk, const Body& body) {
  // At most 65,536 partial sums, so that the serial addition costs nothing, over whole smallest chunks.
  const int64_t share = std::max<int64_t>(1, (count + 65535) / 65536);
  const int64_t chunk = (share + smallest_chunk - 1) / smallest_chunk * smallest_chunk;
  const int64_t chunks = (count + chunk - 1) / chunk;
  if (chunks <= 1) return count > 0 ? body(int64_t{0}, count) : 0.0;
  std::vector<double> partial(static_cast<size_t>(chunks));
  parallel_for(chunks, chunk, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      partial[static_cast<size_t>(c)] = body(c * chunk, std::min(count, (c + 1) * chunk));
    }
  });
  double total = 0;
  for (const double value : partial) total += value;
  return total;
}

}  // namespace handgrad
