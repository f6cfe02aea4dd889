// A vector as wide as a cache line, which the compiler makes of what the processor has: for loops that keep several of
// them in registers, which it would not do with arrays.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/scratch.h"

namespace handgrad {

template <class C>
struct LanesOf {
  typedef C type __attribute__((vector_size(kCacheLine)));
  typedef C half __attribute__((vector_size(kCacheLine / 2)));
  typedef C quarter __attribute__((vector_size(kCacheLine / 4)));
};
template <class C>
using Lanes = typename LanesOf<C>::type;
template <class C>
inline constexpr int64_t kLanes = static_cast<int64_t>(kCacheLine / sizeof(C));

// The memory need not begin with a cache line.
template <class C>
Lanes<C> load_lanes(const C* from) {
  Lanes<C> lanes;
  std::memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}
template <class C>
void store_lanes(const Lanes<C>& lanes, C* to) {
  std::memcpy(to, &lanes, sizeof(lanes));
}

// Of all lanes, the halves first: in one order on every processor.
template <class C>
C sum_lanes(const Lanes<C>& lanes) {
  typename LanesOf<C>::half halves[2];
  std::memcpy(halves, &lanes, sizeof(lanes));
  halves[0] += halves[1];
  typename LanesOf<C>::quarter quarters[2];
  std::memcpy(quarters, &halves[0], sizeof(quarters));
  quarters[0] += quarters[1];
  C sum = 0;
  for (size_t lane = 0; lane < sizeof(quarters[0]) / sizeof(C); ++lane) sum += quarters[0][lane];
  return sum;
}

}  // namespace handgrad
