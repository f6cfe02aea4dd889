// The loops over the pixels of a row, one tap of the window at a time, on the CPU.
//
// In order of appearance: rows of numbers, and rings of such rows; the distance and the weight of each pixel from the
// one beside it; what values are made of; what gradients are made of.
#pragma once

#include <algorithm>

#include "cpu/scratch.h"
#include "joint_bilateral_filter_math.h"

namespace handgrad::joint_bilateral_filter {

template <class N>
inline constexpr bool kIsDual = !std::is_same_v<N, Plain<N>>;

// ---- rows -----------------------------------------------------------------------------------------------------------

// Numbers next to each other, the tangents of dual ones in a row of their own.
template <class N>
struct Row {
  using C = Plain<N>;
  C* first;
  int64_t apart;  // from a number to its tangent

  HANDGRAD_MATH N at(int64_t i) const {
    if constexpr (kIsDual<N>) {
      return N(first[i], first[i + apart]);
    } else {
      return first[i];
    }
  }
  HANDGRAD_MATH void set(int64_t i, N value) const {
    first[i] = value_of(value);
    if constexpr (kIsDual<N>) first[i + apart] = value.tangent;
  }
  Row operator+(int64_t pixels) const { return {first + pixels, apart}; }
  void clear(int64_t count) const {
    std::fill_n(first, count, C(0));
    if constexpr (kIsDual<N>) std::fill_n(first + apart, count, C(0));
  }
};

// The rows of all channels of one row of an image.
template <class N>
struct Rows {
  Row<N> row;
  int64_t pitch;

  Row<N> operator[](int64_t channel) const { return row + channel * pitch; }
  Rows operator+(int64_t pixels) const { return {row + pixels, pitch}; }
};

// Rows of an image that windows reach; row y, which may be behind the border, has the place of row y - slots.
template <class N>
class Ring {
  using C = Plain<N>;

 public:
  Ring(int64_t slots, int64_t channels, int64_t width)
      : slots_(slots),
        channels_(channels),
        // Not all rows in the same sets of a cache.
        pitch_((width + kLine - 1) / kLine * kLine + kLine),
        apart_(slots * channels * pitch_),
        numbers_(static_cast<size_t>((kIsDual<N> ? 2 : 1) * apart_)) {}

  Rows<N> at(int64_t y) {
    const int64_t slot = ((y % slots_) + slots_) % slots_;
    return {{numbers_.data() + slot * channels_ * pitch_, apart_}, pitch_};
  }

 private:
  static constexpr int64_t kLine = static_cast<int64_t>(kCacheLine / sizeof(C));
  int64_t slots_, channels_, pitch_, apart_;
  ScratchVector<C> numbers_;
};

// body(TypeTag<…of K>, channel) for groups of K channels: those of a photograph are walked over together.
template <class Body>
void for_groups(int64_t channels, const Body& body) {
  int64_t c = 0;
  for (; c + 3 <= channels; c += 3) body(std::integral_constant<int, 3>{}, c);
  for (; c < channels; ++c) body(std::integral_constant<int, 1>{}, c);
}

// ---- weights --------------------------------------------------------------------------------------------------------

// Here and below the channels of a group are a recursion, not a loop, so that they are unrolled before the vectoriser
// looks, which only takes innermost loops.
template <bool L1, int K, class N>
HANDGRAD_MATH N contributions_at(Rows<N> one, Rows<N> other, int64_t i, N sum) {
  if constexpr (K == 0) {
    return sum;
  } else {
    return contributions_at<L1, K - 1>(one, other, i, sum) + contribution<L1>(other[K - 1].at(i) - one[K - 1].at(i));
  }
}
template <class N, bool L1, int K, bool First>
[[gnu::noinline]] void add_contributions(Rows<N> one, Rows<N> other, int64_t count, Row<N> sums) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    sums.set(i, contributions_at<L1, K>(one, other, i, First ? N(0) : sums.at(i)));
  }
}

template <class N>
void sum_contributions(bool l1, Rows<N> one, Rows<N> other, int64_t channels, int64_t count, Row<N> sums) {
  if (channels == 0) sums.clear(count);
  for_groups(channels, [&](auto group, int64_t c) {
    constexpr int K = group.value;
    const Rows<N> a{one[c], one.pitch}, b{other[c], other.pitch};
    if (l1 && c == 0) {
      add_contributions<N, true, K, true>(a, b, count, sums);
    } else if (l1) {
      add_contributions<N, true, K, false>(a, b, count, sums);
    } else if (c == 0) {
      add_contributions<N, false, K, true>(a, b, count, sums);
    } else {
      add_contributions<N, false, K, false>(a, b, count, sums);
    }
  });
}

// The bodies of loops over dual numbers are functions of their own: a variable of such a type within the loop itself
// would keep it from being vectorised.
template <class N, bool L1>
[[gnu::noinline]] void weigh(Row<N> sums, N scale, N space, int64_t count, Row<N> weights) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) weights.set(i, weight_of(scale * squared<L1>(sums.at(i)) + space));
}

// ---- values ---------------------------------------------------------------------------------------------------------

template <class N>
[[gnu::noinline]] void add_weights(Row<N> weights, int64_t count, Row<N> totals) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) totals.set(i, totals.at(i) + weights.at(i));
}

// How much each pixel is drawn towards the other.
template <int K, class N>
HANDGRAD_MATH void add_pulls_at(N weight, Rows<N> one, Rows<N> other, int64_t i, Rows<N> pulls) {
  if constexpr (K > 0) {
    add_pulls_at<K - 1>(weight, one, other, i, pulls);
    pulls[K - 1].set(i, pulls[K - 1].at(i) + weight * (other[K - 1].at(i) - one[K - 1].at(i)));
  }
}
template <class N, int K>
[[gnu::noinline]] void add_pulls(Row<N> weights, Rows<N> one, Rows<N> other, int64_t count, Rows<N> pulls) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    add_pulls_at<K>(weights.at(i), one, other, i, pulls);
  }
}

// ---- gradients ------------------------------------------------------------------------------------------------------

// Of a row of pixels and of the one beside it: what there is of them. `gains` are grad_output / D, `means` the sums
// over channels of gains * (y - x); both are 0 where no window has its middle.
template <class N>
struct Side {
  Rows<N> x, gains;
  Row<N> means;
};

// What a pair of pixels is to the loss, over its weight: in both windows, or in that of `one` alone.
template <int K, bool Both, class N>
HANDGRAD_MATH N effects_at(const Side<N>& one, const Side<N>& other, int64_t i, N sum) {
  if constexpr (K == 0) {
    return sum;
  } else {
    const N own = one.gains[K - 1].at(i), gain = Both ? own - other.gains[K - 1].at(i) : own;
    return effects_at<K - 1, Both>(one, other, i, sum) + gain * (other.x[K - 1].at(i) - one.x[K - 1].at(i));
  }
}
template <bool Both, class N>
HANDGRAD_MATH N means_at(const Side<N>& one, const Side<N>& other, int64_t i) {
  if constexpr (Both) return one.means.at(i) + other.means.at(i);
  return one.means.at(i);
}
template <class N, int K, bool First, bool Both>
[[gnu::noinline]] void add_effects(Side<N> one, Side<N> other, int64_t count, Row<N> effects) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    effects.set(i, effects_at<K, Both>(one, other, i, First ? -means_at<Both>(one, other, i) : effects.at(i)));
  }
}

template <class N, bool Both>
void sum_effects(Side<N> one, Side<N> other, int64_t channels, int64_t count, Row<N> effects) {
  for_groups(channels, [&](auto group, int64_t c) {
    const auto from = [c](const Side<N>& side) {
      return Side<N>{{side.x[c], side.x.pitch}, {side.gains[c], side.gains.pitch}, side.means};
    };
    if (c == 0) {
      add_effects<N, group.value, true, Both>(one, other, count, effects);
    } else {
      add_effects<N, group.value, false, Both>(from(one), from(other), count, effects);
    }
  });
}

// From windows of `other` to what they read.
template <int K, class N>
HANDGRAD_MATH void add_gains_at(N weight, Rows<N> gains, int64_t i, Rows<N> grads) {
  if constexpr (K > 0) {
    add_gains_at<K - 1>(weight, gains, i, grads);
    grads[K - 1].set(i, grads[K - 1].at(i) + weight * gains[K - 1].at(i));
  }
}
template <class N, int K>
[[gnu::noinline]] void add_gains(Row<N> weights, Rows<N> gains, int64_t count, Rows<N> grads) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    add_gains_at<K>(weights.at(i), gains, i, grads);
  }
}

template <bool L1, int K, class N>
HANDGRAD_MATH void add_slopes_at(N effect, N sum, Rows<N> one, Rows<N> other, int64_t i, Rows<N> grads) {
  if constexpr (K > 0) {
    add_slopes_at<L1, K - 1>(effect, sum, one, other, i, grads);
    const N slope = half_slope<L1>(sum, one[K - 1].at(i) - other[K - 1].at(i));
    grads[K - 1].set(i, grads[K - 1].at(i) + effect * slope);
  }
}
template <class N, bool L1, int K>
[[gnu::noinline]] void add_slopes(Row<N> weights, Row<N> effects, Row<N> sums, Rows<N> one, Rows<N> other,
                                  int64_t count, Rows<N> grads) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    add_slopes_at<L1, K>(weights.at(i) * effects.at(i), sums.at(i), one, other, i, grads);
  }
}

// The effects on the scales of colours, rows and columns: they are subtracted in the end.
template <class N>
HANDGRAD_MATH void add_scales_at(N effect, N square, Plain<N> down, Plain<N> right, int64_t i, Rows<N> grads) {
  grads[0].set(i, grads[0].at(i) + effect * square);
  grads[1].set(i, grads[1].at(i) + effect * down);
  grads[2].set(i, grads[2].at(i) + effect * right);
}
template <class N, bool L1>
[[gnu::noinline]] void add_scales(Row<N> weights, Row<N> effects, Row<N> sums, Plain<N> down, Plain<N> right,
                                  int64_t count, Rows<N> grads) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < count; ++i) {
    add_scales_at(weights.at(i) * effects.at(i), squared<L1>(sums.at(i)), down, right, i, grads);
  }
}

}  // namespace handgrad::joint_bilateral_filter
