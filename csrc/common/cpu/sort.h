// A stable sort by integer keys, which takes a few passes over the entries whatever their order.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>
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

// What is sorted by: the key of an entry; a bare number is its own key.
template <class Key>
Key key_of(const Entry<Key>& entry) {
  return entry.key;
}
template <class Key>
  requires std::is_unsigned_v<Key>
Key key_of(Key key) {
  return key;
}

// Ascending; items of the same key keep their order. Returns where they are: at `items`, or at `moved`, which has room
// for as many.
template <class Item>
Item* sort_by_key(Item* items, Item* moved, size_t count) {
  const auto less = [](const Item& a, const Item& b) { return key_of(a) < key_of(b); };
  if (std::is_sorted(items, items + count, less)) return items;
  if (count < kFewEntries) {
    std::stable_sort(items, items + count, less);
    return items;
  }
  using Key = decltype(key_of(*items));
  // Buckets that a first-level cache holds a line of: ten bits are faster than eleven, though they may be a pass more.
  constexpr int kBits = 10, kDigits = (8 * sizeof(Key) + kBits - 1) / kBits;
  constexpr size_t kBuckets = size_t{1} << kBits;
  std::vector<std::array<size_t, kBuckets>> counts(kDigits);
  for (auto& of_digit : counts) of_digit.fill(0);
  for (size_t i = 0; i < count; ++i) {
    const Key key = key_of(items[i]);
    for (int d = 0; d < kDigits; ++d) ++counts[d][key >> (d * kBits) & (kBuckets - 1)];
  }
  for (int d = 0; d < kDigits; ++d) {
    auto& starts = counts[d];
    const int shift = d * kBits;
    // A digit that all have in common moves nothing.
    if (starts[key_of(items[0]) >> shift & (kBuckets - 1)] == count) continue;
    size_t start = 0;
    for (size_t& bucket : starts) {
      const size_t filled = bucket;
      bucket = start;
      start += filled;
    }
    for (size_t i = 0; i < count; ++i) moved[starts[key_of(items[i]) >> shift & (kBuckets - 1)]++] = items[i];
    std::swap(items, moved);
  }
  return items;
}
template <class Key>
void sort_by_key(std::vector<Entry<Key>>& entries) {
  if (entries.empty()) return;
  std::vector<Entry<Key>> moved(entries.size());
  if (sort_by_key(entries.data(), moved.data(), entries.size()) == moved.data()) entries.swap(moved);
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
