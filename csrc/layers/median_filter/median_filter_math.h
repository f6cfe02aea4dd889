// The median of a window, by one of two ways without a branch, so that many windows go side by side: a network of
// comparisons for 3 x 3 and 5 x 5, and for any other size a search for the median's bits. Both are made here, for
// docs/layers/median_filter.md to explain.
//
// In order of appearance: networks; bits in the order of numbers; which pixel is selected.
#pragma once

#include <utility>

#include "math/border.h"
#include "math/scalar_math.h"

namespace handgrad::median_filter {

// ---- networks -------------------------------------------------------------------------------------------------------

// Comparisons that bring the median of Taps numbers to the middle: those of Batcher's merge exchange (Knuth, The Art of
// Computer Programming 3, algorithm 5.2.2M) that something of the middle depends on.
template <int Taps>
struct Network {
  static constexpr int kMost = Taps * Taps;
  int32_t count = 0, first[kMost] = {}, second[kMost] = {};

  constexpr Network() {
    Network all(true);
    bool needed[Taps] = {}, kept[kMost] = {};
    needed[Taps / 2] = true;
    for (int32_t k = all.count - 1; k >= 0; --k) {
      kept[k] = needed[all.first[k]] || needed[all.second[k]];
      if (kept[k]) needed[all.first[k]] = needed[all.second[k]] = true;
    }
    for (int32_t k = 0; k < all.count; ++k) {
      if (kept[k]) add(all.first[k], all.second[k]);
    }
  }

 private:
  explicit constexpr Network(bool) {
    int32_t half = 1;
    while (2 * half < Taps) half *= 2;
    for (int32_t p = half; p > 0; p /= 2) {
      for (int32_t q = half, r = 0, d = p; d > 0;) {
        for (int32_t k = 0; k + d < Taps; ++k) {
          if ((k & p) == r) add(k, k + d);
        }
        d = q != p ? q - p : 0, q /= 2, r = p;
      }
    }
  }
  constexpr void add(int32_t a, int32_t b) { first[count] = a, second[count] = b, ++count; }
};
template <int Taps>
inline constexpr Network<Taps> kNetwork = {};

template <int32_t First, int32_t Second, int Taps, class C>
HANDGRAD_MATH void sort_two(C (&numbers)[Taps]) {
  const C a = numbers[First], b = numbers[Second];
  numbers[First] = a < b ? a : b;
  numbers[Second] = a < b ? b : a;
}
template <int Taps, int32_t At, class C>
HANDGRAD_MATH void compare(C (&numbers)[Taps]) {
  sort_two<kNetwork<Taps>.first[At], kNetwork<Taps>.second[At]>(numbers);
}
template <int Taps, class C, int32_t... At>
HANDGRAD_MATH void compare_all(C (&numbers)[Taps], std::integer_sequence<int32_t, At...>) {
  (compare<Taps, At>(numbers), ...);
}
// The median of an odd number of numbers, none of them NaN; they are rearranged.
template <int Taps, class C>
HANDGRAD_MATH C middle_of(C (&numbers)[Taps]) {
  compare_all(numbers, std::make_integer_sequence<int32_t, kNetwork<Taps>.count>{});
  return numbers[Taps / 2];
}

// A column of three numbers, sorted; and the median of three such columns: the middle one of the largest of the low
// ones, the middle one of the middle ones and the smallest of the high ones, which are three of each, in this order.
template <class C>
HANDGRAD_MATH void sort_column(C (&numbers)[3]) {
  sort_two<0, 1>(numbers), sort_two<1, 2>(numbers), sort_two<0, 1>(numbers);
}
template <class C>
HANDGRAD_MATH C middle_of_columns(C (&numbers)[9]) {
  sort_two<0, 1>(numbers), sort_two<1, 2>(numbers);
  sort_two<7, 8>(numbers), sort_two<6, 7>(numbers);
  sort_two<3, 4>(numbers), sort_two<4, 5>(numbers), sort_two<3, 4>(numbers);
  sort_two<2, 4>(numbers), sort_two<4, 6>(numbers), sort_two<2, 4>(numbers);
  return numbers[4];
}

// ---- bits in the order of numbers -----------------------------------------------------------------------------------

template <class C>
using Key = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;

// Integers that compare as the numbers do; 0 is above -0. And back.
template <class C>
HANDGRAD_MATH Key<C> key_of(C number) {
  const Key<C> bits = detail::bits_as<Key<C>>(number);
  return bits < 0 ? bits ^ std::numeric_limits<Key<C>>::max() : bits;
}
template <class C>
HANDGRAD_MATH C number_of(Key<C> key) {
  return detail::bits_as<C>(key < 0 ? key ^ std::numeric_limits<Key<C>>::max() : key);
}
// The key with one more bit, counted from the lowest key that there is.
template <class K>
HANDGRAD_MATH K with_bit(K key, int32_t bit) {
  using Unsigned = std::make_unsigned_t<K>;
  return static_cast<K>(static_cast<Unsigned>(key) + (Unsigned{1} << bit));
}

}  // namespace handgrad::median_filter
