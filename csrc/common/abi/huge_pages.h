// Huge pages for large tensors of the CPU.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace handgrad {

// From this size on glibc maps memory for a tensor alone and gives it back when the tensor dies, so that each call
// would meet every page of 4 KiB for the first time: a third of the time of a loss whose gradient is 44 MB. Smaller
// memory is kept and met again. (DEFAULT_MMAP_THRESHOLD_MAX, mallopt(3).)
constexpr int64_t kMappedAlone = int64_t{32} << 20;

// Asks Linux for pages of 2 MiB under memory that no one has touched yet. Advice: where the system has none to give, or
// gives them always or never (/sys/kernel/mm/transparent_hugepage/enabled), nothing changes.
inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < kMappedAlone) return;
  // Whole pages only, be they of 4, 16 or 64 KiB.
  constexpr uintptr_t kPage = 64 << 10;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

}  // namespace handgrad
