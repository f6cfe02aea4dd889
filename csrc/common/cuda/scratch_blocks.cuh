// Blocks that need more scratch memory than a device may have in shared memory.
#pragma once

#include <optional>

#include "cuda/launch.cuh"

namespace handgrad {

// The most bytes of scratch in global memory.
inline constexpr int64_t kMostScratch = int64_t{256} << 20;

// run(first, blocks, scratch) for `items` blocks of `threads`, each with so many numbers of scratch: in shared memory,
// then `scratch` is null; or in global memory, then some at a time.
template <class C, class Run>
void for_blocks_with_scratch(int64_t items, int64_t numbers, unsigned threads, const Tensor& like, const Run& run) {
  const int64_t bytes = numbers * static_cast<int64_t>(sizeof(C));
  const bool fits = bytes <= shared_memory_limit();
  const int64_t most = fits ? INT32_MAX : std::clamp<int64_t>(kMostScratch / bytes, 1, kGlobalScratchBlocks);
  std::optional<Tensor> global;
  if (!fits) global = empty_vector<C>(std::min(items, most) * numbers, like);
  C* const scratch = global ? global->template mutable_data_ptr<C>() : nullptr;
  for (int64_t first = 0; first < items; first += most) {
    run(first, Blocks{std::min(most, items - first), dim3(threads, 1, 1), fits ? bytes : 0}, scratch);
  }
}

}  // namespace handgrad
