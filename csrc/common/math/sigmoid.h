// The sigmoid with its derivatives, from the side on which nothing overflows.
#pragma once

#include <limits>

#include "math/scalar_math.h"

namespace handgrad {

// Of z, with e = exp(-|z|): the sigmoid is 1 / (1 + e) or e / (1 + e).
template <class T>
struct Sigmoid {
  // distance = |z|, but finite: at infinity the slope is 0, and so has to be their product. rise = |1 - 2 value|.
  T distance, value, slope, rise;
  bool positive;

  HANDGRAD_MATH explicit Sigmoid(T z) {
    constexpr T largest = std::numeric_limits<T>::max();
    distance = absolute(z);
    positive = z >= 0;
    const T e = exp_decay(distance), larger = 1 / (1 + e), smaller = e * larger;
    distance = largest < distance ? largest : distance;
    value = positive ? larger : smaller;
    slope = larger * smaller;
    rise = (1 - e) * larger;
  }

  // The derivatives of z s, s being the sigmoid: s + z s' and s' (2 + z (1 - 2 s)).
  HANDGRAD_MATH T slope_of_product() const {
    const T growth = distance * slope;
    return value + (positive ? growth : -growth);
  }
  // z (1 - 2 s) is the same on both sides of 0.
  HANDGRAD_MATH T curvature_of_product() const { return slope * (2 - distance * rise); }
};

}  // namespace handgrad
