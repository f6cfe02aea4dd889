// The tables of taps of one image, on the CPU.
//
// In order of appearance: taps of one axis in double; those for images of floating-point numbers and for uint8; the
// taps of the gradient.
#pragma once

#include <cmath>

#include "resized_crop_host.h"
#include "resized_crop_strips.h"

namespace handgrad::resized_crop {

// The taps of all outputs of an axis as the formula has them: the precision of integers is the same for every window.
struct ExactTaps {
  std::vector<Taps> taps;
  std::vector<double> weights;  // [outputs, most]
  double largest = 0;
  int64_t most;

  explicit ExactTaps(const Axis& axis)
      : taps(static_cast<size_t>(axis.output)),
        weights(static_cast<size_t>(axis.output) * static_cast<size_t>(axis.most_taps)),
        most(axis.most_taps) {
    for (int32_t i = 0; i < axis.output; ++i) taps[static_cast<size_t>(i)] = axis.fill(i, weights_of(i), largest);
  }

  double* weights_of(int64_t i) { return weights.data() + i * most; }

  // Drops taps at either end that weigh nothing, so that they are not read.
  void trim() {
    for (size_t i = 0; i < taps.size(); ++i) {
      double* own = weights_of(static_cast<int64_t>(i));
      int32_t begin = 0, end = taps[i].count;
      while (end > begin + 1 && own[end - 1] == 0) --end;
      while (begin + 1 < end && own[begin] == 0) ++begin;
      std::move(own + begin, own + end, own);
      taps[i] = {taps[i].first + begin, end - begin};
    }
  }
};

// C is float or double.
template <class C>
AxisTaps<C> taps_of(const Axis& axis, bool flip) {
  ExactTaps exact(axis);
  exact.trim();
  AxisTaps<C> taps(axis.outputs, exact.most);
  taps.descending = flip;
  for (int64_t o = 0; o < axis.outputs; ++o) {
    const size_t i = static_cast<size_t>(whole_index(o, axis.begin, axis.outputs, flip));
    const Taps own = exact.taps[i];
    taps.first[static_cast<size_t>(o)] = own.first, taps.count[static_cast<size_t>(o)] = own.count;
    const double* from = exact.weights_of(static_cast<int64_t>(i));
    for (int64_t k = 0; k < own.count; ++k)
      taps.weights[static_cast<size_t>(o * exact.most + k)] = static_cast<C>(from[k]);
  }
  return taps;
}

// Integer weights, and what follows from them for the type that they are summed in.
struct IntegerTaps {
  ExactTaps exact;
  int32_t precision;
  // A sum can leave 0 to 255; no sum of them with levels in between leaves what float holds exactly.
  bool clamps = false, fits_float = true;

  IntegerTaps(const Axis& axis, bool pillow) : exact(axis), precision(precision_of(exact.largest, pillow)) {
    for (size_t i = 0; i < exact.taps.size(); ++i) {
      double* own = exact.weights_of(static_cast<int64_t>(i));
      int64_t total = 0, positive = 0;
      for (int64_t k = 0; k < exact.taps[i].count; ++k) {
        const int32_t weight = integer_weight(own[k], precision);
        own[k] = weight;
        total += weight, positive += std::abs(weight);
      }
      const int64_t half = int64_t{1} << (precision - 1);
      clamps |= positive != total || 255 * total + half >= int64_t{256} << precision;
      fits_float &= 255 * positive + half <= int64_t{1} << 24;
    }
    exact.trim();
  }

  // C is float or int32_t. All outputs have as many taps, so that loops are of one length; where an output has fewer,
  // the others weigh nothing.
  template <class C>
  AxisTaps<C> made(const Axis& axis, bool flip) {
    int32_t most = 1;
    for (const Taps& own : exact.taps) most = std::max(most, own.count);
    AxisTaps<C> taps(axis.outputs, most);
    taps.descending = flip, taps.precision = precision, taps.clamps = clamps;
    const double unit = std::is_same_v<C, int32_t> ? 1.0 : 1.0 / static_cast<double>(int64_t{1} << precision);
    for (int64_t o = 0; o < axis.outputs; ++o) {
      const size_t i = static_cast<size_t>(whole_index(o, axis.begin, axis.outputs, flip));
      const Taps own = exact.taps[i];
      const int32_t first = std::min(own.first, axis.size - most);
      taps.first[static_cast<size_t>(o)] = first, taps.count[static_cast<size_t>(o)] = most;
      const double* from = exact.weights_of(static_cast<int64_t>(i));
      C* to = taps.weights.data() + o * most + (own.first - first);
      for (int64_t k = 0; k < own.count; ++k) to[k] = static_cast<C>(from[k] * unit);
    }
    return taps;
  }
};

// For each pixel of the crop the outputs that it is in: neighbours, because windows are in order.
template <class C>
AxisTaps<C> transposed(const AxisTaps<C>& taps, int64_t size) {
  std::vector<int32_t> first(static_cast<size_t>(size)), count(static_cast<size_t>(size));
  const auto for_each = [&](const auto& body) {
    for (int64_t o = 0; o < taps.outputs; ++o) {
      for (int32_t k = 0; k < taps.count[static_cast<size_t>(o)]; ++k) {
        body(o, k, static_cast<size_t>(taps.first[static_cast<size_t>(o)] + k));
      }
    }
  };
  int32_t most = 1;
  for_each([&](int64_t o, int32_t, size_t pixel) {
    if (count[pixel] == 0) first[pixel] = static_cast<int32_t>(o);
    count[pixel] = static_cast<int32_t>(o) - first[pixel] + 1;
    most = std::max(most, count[pixel]);
  });
  AxisTaps<C> result(size, most);
  for_each([&](int64_t o, int32_t k, size_t pixel) {
    result.weights[pixel * static_cast<size_t>(most) + static_cast<size_t>(o - first[pixel])] = taps.weights_of(o)[k];
  });
  result.first = std::move(first), result.count = std::move(count), result.descending = taps.descending;
  return result;
}

}  // namespace handgrad::resized_crop
