// A stable sort by integer keys, which takes a few passes over the entries whatever their order.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "math/scalar_math.h"

namespace handgrad {

template <class Key>
struct Entry {
  Key key;
  uint32_t index;
};

// Below so many entries, comparing them is faster than counting their digits.
inline constexpr size_t kFewEntries = 400;

// Ascending; entries of the same key keep their order.
template <class Key>
void sort_by_key(std::vector<Entry<Key>>& entries) {
  const auto less = [](const Entry<Key>& a, const Entry<Key>& b) { return a.key < b.key; };
  if (std::is_sorted(entries.begin(), entries.end(), less)) return;
  if (entries.size() < kFewEntries) {
    std::stable_sort(entries.begin(), entries.end(), less);
    return;
  }
  constexpr int kBits = 11, kDigits = (8 * sizeof(Key) + kBits - 1) / kBits;
  constexpr size_t kBuckets = size_t{1} << kBits;
  std::vector<std::array<size_t, kBuckets>> counts(kDigits);
  for (auto& count : counts) count.fill(0);
  for (const Entry<Key>& entry : entries) {
    for (int d = 0; d < kDigits; ++d) ++counts[d][entry.key >> (d * kBits) & (kBuckets - 1)];
  }
  std::vector<Entry<Key>> moved(entries.size());
  for (int d = 0; d < kDigits; ++d) {
    auto& starts = counts[d];
    const int shift = d * kBits;
    // A digit that all have in common moves nothing.
    if (starts[entries.front().key >> shift & (kBuckets - 1)] == entries.size()) continue;
    size_t start = 0;
    for (size_t& bucket : starts) {
      const size_t count = bucket;
      bucket = start;
      start += count;
    }
    for (const Entry<Key>& entry : entries) moved[starts[entry.key >> shift & (kBuckets - 1)]++] = entry;
    entries.swap(moved);
  }
}

// Keys whose ascending order is the descending order of numbers, as torch sorts: NaN before all others, and the two
// zeros alike.
inline uint32_t descending_key(float x) {
  const uint32_t bits = detail::bits_as<uint32_t>(x == 0 ? 0.0f : x);
  return x != x ? 0 : (bits >> 31 ? bits : ~(bits | uint32_t{1} << 31));
}
inline uint64_t descending_key(double x) {
  const uint64_t bits = detail::bits_as<uint64_t>(x == 0 ? 0.0 : x);
  return x != x ? 0 : (bits >> 63 ? bits : ~(bits | uint64_t{1} << 63));
}

}  // namespace handgrad
