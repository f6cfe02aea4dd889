// A row of pairs: what one sample, the anchor, has to do with every sample of a set. On the CPU a thread has a row, on
// devices a warp; both are a team, and formulas are written for either.
#pragma once

#include <cstdint>
#include <limits>

#include "math/convert.h"

namespace handgrad {

// How a pair is measured, from the product of its two vectors: by that product, of vectors of length one; or by the
// distance of the two or its square.
enum class PairMeasure : int64_t { cosine = 0, distance = 1, squared_distance = 2 };

// Memory as a thread of the CPU reads and writes it.
struct PlainAccess {
  template <class T>
  static T load(const T* from) {
    return *from;
  }
  template <class T>
  static void store(T* to, T value) {
    *to = value;
  }
};

template <class C, class Access>
struct PairRow {
  const C *values, *rates;  // [count], of the pairs, and how they move
  C *slopes, *slope_rates;  // [count], the derivatives with respect to values, and how they move
  const int64_t* labels;    // one for each sample
  int64_t anchor, count, label;

  HANDGRAD_MATH double value(int64_t j) const { return static_cast<double>(Access::load(values + j)); }
  HANDGRAD_MATH double rate(int64_t j) const { return static_cast<double>(Access::load(rates + j)); }
  HANDGRAD_MATH double slope(int64_t j) const { return static_cast<double>(Access::load(slopes + j)); }
  HANDGRAD_MATH double slope_rate(int64_t j) const { return static_cast<double>(Access::load(slope_rates + j)); }
  HANDGRAD_MATH void set_slope(int64_t j, double x) const { Access::store(slopes + j, static_cast<C>(x)); }
  HANDGRAD_MATH void set_slope_rate(int64_t j, double x) const { Access::store(slope_rates + j, static_cast<C>(x)); }
  HANDGRAD_MATH bool is_positive(int64_t j) const { return (j != anchor) & (of(j) == label); }
  HANDGRAD_MATH bool is_negative(int64_t j) const { return of(j) != label; }

 private:
  HANDGRAD_MATH int64_t of(int64_t j) const { return Access::load(labels + j); }
};

// The loss of an anchor, and how many terms it is a sum of: so many numbers.
inline constexpr int64_t kPairResults = 2;
struct PairLoss {
  double loss = 0, terms = 0;
};

// The largest number that a team has been shown, and where it stands: of equal ones the first. NaN is larger than all.
struct Extreme {
  double value = 0;
  int64_t index = -1;

  // Whether it may be that; false of most numbers.
  HANDGRAD_MATH bool may_be(double x) const { return index < 0 || x > value || (x != x && value == value); }
  HANDGRAD_MATH void show(double x, int64_t i) {
    const bool above = may_be(x);
    const bool earlier = (x == value || (x != x && value != value)) && i < index;
    if (!above && !earlier) return;
    value = x;
    index = i;
  }
};

// A thread by itself.
struct SingleThread {
  template <class Body>
  void each(int64_t count, const Body& body) const {
    for (int64_t j = 0; j < count; ++j) body(j);
  }
  // The same of bodies that neither branch nor add up.
  template <class Body>
  void each_alike(int64_t count, const Body& body) const {
    HANDGRAD_SIMD
    for (int64_t j = 0; j < count; ++j) body(j);
  }
  double sum(double value) const { return value; }
  Extreme largest(const Extreme& mine) const { return mine; }
};

// ---- measures of a pair
// ---------------------------------------------------------------------------------------------

// Two vectors of a set: their product, their squared lengths, and how these move.
struct Pair {
  double product, squared_a, squared_b;
  double product_rate, squared_a_rate, squared_b_rate;

  HANDGRAD_MATH double squared_distance() const {
    const double squared = squared_a + squared_b - 2 * product;
    return squared < 0 ? 0 : squared;
  }
  HANDGRAD_MATH double squared_distance_rate() const { return squared_a_rate + squared_b_rate - 2 * product_rate; }
  // Whether so much is lost in that difference that it should be taken of the vectors themselves.
  HANDGRAD_MATH bool is_near() const { return squared_distance() * 64 < squared_a + squared_b; }
};

struct Measured {
  double value, rate;
};

HANDGRAD_MATH Measured measured(PairMeasure measure, double squared, double squared_rate) {
  if (measure == PairMeasure::squared_distance) return {squared, squared_rate};
  const double distance = square_root(squared);
  // Of equal vectors the distance has a kink: it is taken not to move.
  return {distance, distance == 0 ? 0 : squared_rate / (2 * distance)};
}

// From a derivative with respect to a measure to one with respect to the squared distance.
HANDGRAD_MATH Measured of_square(PairMeasure measure, double value, double rate, double slope, double slope_rate) {
  if (measure == PairMeasure::squared_distance) return {slope, slope_rate};
  if (value == 0) return {0, 0};
  const double half = 1 / (2 * value);
  return {slope * half, slope_rate * half - slope * half * rate / value};
}

}  // namespace handgrad
