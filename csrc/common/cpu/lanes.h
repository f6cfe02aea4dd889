// A vector as wide as a cache line, which the compiler makes of what the processor has: for loops that keep several of
// them in registers, which it would not do with arrays.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/scratch.h"

namespace handgrad {

template <class C>
struct LanesOf {
  typedef C type __attribute__((vector_size(kCacheLine)));
  typedef C half __attribute__((vector_size(kCacheLine / 2)));
  typedef C quarter __attribute__((vector_size(kCacheLine / 4)));
  typedef C unaligned __attribute__((vector_size(kCacheLine), aligned(alignof(C)), may_alias));
};
template <class C>
using Lanes = typename LanesOf<C>::type;
template <class C>
inline constexpr int64_t kLanes = static_cast<int64_t>(kCacheLine / sizeof(C));

// The memory need not begin with a cache line. A reference, since a processor with narrower vectors has no register in
// which a function could return one.
template <class C>
const typename LanesOf<C>::unaligned& load_lanes(const C* from) {
  return *reinterpret_cast<const typename LanesOf<C>::unaligned*>(from);
}
template <class C>
void store_lanes(const Lanes<C>& lanes, C* to) {
  *reinterpret_cast<typename LanesOf<C>::unaligned*>(to) = lanes;
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

// ---- vectors of another length --------------------------------------------------------------------------------------

template <class C, int64_t Count>
struct PackedOf {
  typedef C type __attribute__((vector_size(Count * sizeof(C))));
  typedef C unaligned __attribute__((vector_size(Count * sizeof(C)), aligned(alignof(C)), may_alias));
};
template <class C, int64_t Count>
using Packed = typename PackedOf<C, Count>::type;

template <int64_t Count, class C>
const typename PackedOf<C, Count>::unaligned& load_packed(const C* from) {
  return *reinterpret_cast<const typename PackedOf<C, Count>::unaligned*>(from);
}
template <int64_t Count, class C>
void store_packed(const Packed<C, Count>& packed, C* to) {
  *reinterpret_cast<typename PackedOf<C, Count>::unaligned*>(to) = packed;
}

// The processor's own, at most as wide as a cache line: for loops that need all of its registers, where Lanes would be
// several of them. The compiler says how wide they are by the largest alignment that it knows.
inline constexpr int64_t kOwnBytes = std::min<int64_t>(__BIGGEST_ALIGNMENT__, kCacheLine);
template <class C>
inline constexpr int64_t kOwnLanes = kOwnBytes / int64_t{sizeof(C)};
template <class C>
using OwnLanes = Packed<C, kOwnLanes<C>>;

template <class C>
const typename PackedOf<C, kOwnLanes<C>>::unaligned& load_own_lanes(const C* from) {
  return load_packed<kOwnLanes<C>>(from);
}
template <class C>
void store_own_lanes(const OwnLanes<C>& lanes, C* to) {
  store_packed<kOwnLanes<C>>(lanes, to);
}

}  // namespace handgrad
