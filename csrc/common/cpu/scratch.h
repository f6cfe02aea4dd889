// Scratch memory of kernels.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace handgrad {

// Bytes of a cache line, and of the widest vector.
inline constexpr size_t kCacheLine = 64;

template <class C>
struct CacheLineAllocator {
  using value_type = C;

  CacheLineAllocator() = default;
  template <class Other>
  CacheLineAllocator(const CacheLineAllocator<Other>&) {}

  C* allocate(size_t count) { return static_cast<C*>(::operator new(count * sizeof(C), std::align_val_t(kCacheLine))); }
  void deallocate(C* memory, size_t) { ::operator delete(memory, std::align_val_t(kCacheLine)); }

  template <class Other>
  bool operator==(const CacheLineAllocator<Other>&) const {
    return true;
  }
};

// A vector that begins with a cache line: what a whole vector of the processor is loaded from is then never in two.
template <class C>
using ScratchVector = std::vector<C, CacheLineAllocator<C>>;

}  // namespace handgrad
