// The operations on the tones of one channel: on levels of uint8, as torchvision rounds them; on floating-point
// numbers; and their derivatives. Derivation: docs/transforms/adjust_tones.md.
//
// In order of appearance: an operation; levels; numbers, plain and dual; derivatives.
#pragma once

#include <cstdint>

#include "math/dual.h"

namespace handgrad::adjust_tones {

// As the schema counts them.
enum class Operation : int32_t { none = 0, posterize = 1, solarize = 2, invert = 3, autocontrast = 4, equalize = 5 };

inline constexpr int kLevels = 256;

// Whether it depends on all pixels of the channel.
HANDGRAD_MATH bool has_statistic(Operation operation) {
  return operation == Operation::autocontrast || operation == Operation::equalize;
}
// Whether what it makes has no slope anywhere.
HANDGRAD_MATH bool is_flat(Operation operation) {
  return operation == Operation::posterize || operation == Operation::equalize;
}

// ---- levels ---------------------------------------------------------------------------------------------------------

// What posterize keeps: the first bits. A number of bits that there is none of is the nearest that there is.
HANDGRAD_MATH int32_t bits_of(double number) {
  const int32_t bits = number > 0 ? (number < 8 ? static_cast<int32_t>(number) : 8) : 0;
  return bits;
}
HANDGRAD_MATH int32_t mask_of(double number) { return (0xff00 >> bits_of(number)) & 0xff; }

// The least level that solarize turns over; 256: none. The comparison is torch's, of float32.
HANDGRAD_MATH int32_t turning_level(double number) {
  const float threshold = static_cast<float>(number);
  if (!(threshold <= 255)) return kLevels;
  if (threshold <= 0) return 0;
  const int32_t below = static_cast<int32_t>(threshold);
  return static_cast<float>(below) < threshold ? below + 1 : below;
}

// What autocontrast makes of a level of a channel that reaches from `low` to `high`, each step rounded as torch does.
HANDGRAD_MATH int32_t stretched_level(int32_t level, int32_t low, int32_t high) {
  if (low >= high) return level;
  const float scale = rounded_product(static_cast<float>(high - low), static_cast<float>(1.0 / 255));
  const float stretched = static_cast<float>(level - low) / scale;
  return stretched < 255 ? (stretched > 0 ? static_cast<int32_t>(stretched) : 0) : 255;
}

// What equalize makes of a level that `below` pixels are less than, of a channel of which `others` pixels are not of
// its largest level.
HANDGRAD_MATH int32_t equalized_level(int32_t level, int64_t below, int64_t others) {
  const int64_t step = others / 255;
  if (step == 0) return level;
  const int64_t rank = (below + step / 2) / step;
  return static_cast<int32_t>(rank < 255 ? rank : 255);
}

// An operation on a level that needs nothing but its number.
HANDGRAD_MATH int32_t pointwise_level(Operation operation, double number, int32_t level) {
  switch (operation) {
    case Operation::posterize: return level & mask_of(number);
    case Operation::solarize: return level >= turning_level(number) ? 255 - level : level;
    case Operation::invert: return 255 - level;
    default: return level;
  }
}

// The level that a number becomes; of NaN 0.
template <class C>
HANDGRAD_MATH int32_t level_of(C x) {
  const C scaled = x * static_cast<C>(255 + 1.0 - 1e-3);
  const C low = scaled > 0 ? scaled : C(0);
  return static_cast<int32_t>(low < 255 ? low : C(255));
}

// ---- numbers --------------------------------------------------------------------------------------------------------

HANDGRAD_MATH float floor_of(float x) { return floorf(x); }
HANDGRAD_MATH double floor_of(double x) { return ::floor(x); }

// The tangent of a number, which a plain one does not have.
HANDGRAD_MATH double tangent_of(float) { return 0; }
HANDGRAD_MATH double tangent_of(double) { return 0; }
template <class C>
HANDGRAD_MATH double tangent_of(Dual<C> x) {
  return static_cast<double>(x.tangent);
}
// What a derivative is: a plain number, or the tangent of a dual one.
HANDGRAD_MATH float result_of(float x) { return x; }
HANDGRAD_MATH double result_of(double x) { return x; }
template <class C>
HANDGRAD_MATH C result_of(Dual<C> x) {
  return x.tangent;
}
template <class C>
HANDGRAD_MATH void assign(double value, double, C& to) {
  to = static_cast<C>(value);
}
template <class C>
HANDGRAD_MATH void assign(double value, double tangent, Dual<C>& to) {
  to = {static_cast<C>(value), static_cast<C>(tangent)};
}

// An operation of one channel. Of autocontrast: the least number, the range, and what the gradients of the least and
// the largest number give to each pixel that has it.
template <class N>
struct Step {
  using C = Plain<N>;
  Operation operation;
  C number, low, high;
  N least, range, to_low, to_high;
  const uint8_t* table;  // of equalize, [kLevels]

  HANDGRAD_MATH bool is_even() const { return low == high; }
};

template <class C>
HANDGRAD_MATH C posterized(C x, C number) {
  const C levels = static_cast<C>(1 << bits_of(static_cast<double>(number)));
  const C whole = floor_of(x * levels), low = whole < 0 ? C(0) : whole, most = levels - 1;
  return (low > most ? most : low) * (1 / levels);
}
template <class N>
HANDGRAD_MATH N solarized(N x, Plain<N> threshold) {
  return select(value_of(x) >= threshold, 1 - x, x);
}
// Of an even channel the number, cut to 0 to 1; NaN stays.
template <class N>
HANDGRAD_MATH N stretched(N x, const Step<N>& step) {
  const N cut = select(value_of(x) < 0, N(0), select(value_of(x) > 1, N(1), x));
  return select(step.is_even(), cut, (x - step.least) / step.range);
}
// NaN stays.
template <class C>
HANDGRAD_MATH C equalized(C x, const uint8_t* table) {
  const C level = static_cast<C>(table[level_of(x)]) * static_cast<C>(1.0 / 255);
  return x != x ? x : level;
}

// Of dual numbers what is flat is not asked for: nothing is to be known of a chain that has it.
template <class N>
HANDGRAD_MATH N toned(N x, const Step<N>& step) {
  switch (step.operation) {
    case Operation::solarize: return solarized(x, step.number);
    case Operation::invert: return 1 - x;
    case Operation::autocontrast: return stretched(x, step);
    default: break;
  }
  if constexpr (std::is_floating_point_v<N>) {
    if (step.operation == Operation::posterize) return posterized(x, step.number);
    if (step.operation == Operation::equalize) return equalized(x, step.table);
  }
  return x;
}

// ---- derivatives ----------------------------------------------------------------------------------------------------

// What one pixel contributes to the gradients of the least and the largest number of its channel.
template <class N>
struct Contribution {
  N low, high;
};
template <class N>
HANDGRAD_MATH Contribution<N> contribution(N x, N grad, const Step<N>& step) {
  const N share = select(step.is_even(), N(0), grad / step.range), part = stretched(x, step);
  return {share * part - share, -(share * part)};
}

// From the gradient of what a step makes of x to that of x.
template <class N>
HANDGRAD_MATH N pulled_back(N x, N grad, const Step<N>& step) {
  const Plain<N> at = value_of(x);
  switch (step.operation) {
    case Operation::solarize: return select(at >= step.number, -grad, grad);
    case Operation::invert: return -grad;
    case Operation::autocontrast: {
      const N inside = select(at >= 0 && at <= 1, grad, N(0));
      const N of_ends = select(at == step.low, step.to_low, N(0)) + select(at == step.high, step.to_high, N(0));
      return select(step.is_even(), inside, grad / step.range + of_ends);
    }
    default: return grad;
  }
}

}  // namespace handgrad::adjust_tones
