// An activation with a gain and a cut-off around it, of one element, and both derivatives:
//
//   y = min(max(gain a(z), -clamp), clamp)
//
// pull(z, g) is g dy/dz, turn(z, g, u) is g u d²y/dz². What is cut off gets 0 by a selection, as torch's clamp has it.
#pragma once

#include "abi/macros.h"

namespace handgrad {

struct ActivationNumbers {
  double alpha, gain, clamp;  // clamp: negative for none
};

template <class T>
struct LeakyRelu {
  static constexpr bool is_curved = false;
  T alpha;
  HANDGRAD_MATH explicit LeakyRelu(const ActivationNumbers& numbers) : alpha(static_cast<T>(numbers.alpha)) {}
  HANDGRAD_MATH T value(T z) const { return z > 0 ? z : alpha * z; }
  HANDGRAD_MATH T pull(T z, T g) const { return z > 0 ? g : alpha * g; }
  HANDGRAD_MATH T curvature(T) const { return 0; }
};

// A has value(z), pull(z, g) = g a'(z), curvature(z) = a''(z), and is made from Numbers.
template <class T, class A, class Numbers = ActivationNumbers>
struct ClampedActivation {
  static constexpr bool is_curved = A::is_curved;
  A act;
  T gain, clamp;

  HANDGRAD_MATH explicit ClampedActivation(const Numbers& numbers)
      : act(numbers), gain(static_cast<T>(numbers.gain)), clamp(static_cast<T>(numbers.clamp)) {}

  HANDGRAD_MATH T value(T z) const {
    const T y = gain * act.value(z);
    // NaN passes both.
    const T low = y < -clamp ? -clamp : y, both = low > clamp ? clamp : low;
    return clamp < 0 ? y : both;
  }
  HANDGRAD_MATH T pull(T z, T g) const { return act.pull(z, passed(z, g)); }
  HANDGRAD_MATH T turn(T z, T g, T u) const {
    if constexpr (!is_curved) return 0;
    return passed(z, g) * u * act.curvature(z);
  }

 private:
  // What of the gradient of y the activation gets: on the border nothing, as in torch from 2.14 on; of NaN only where
  // nothing is cut off.
  HANDGRAD_MATH T passed(T z, T g) const {
    const T y = gain * act.value(z);
    return (clamp < 0) | ((y > -clamp) & (y < clamp)) ? gain * g : T(0);
  }
};

}  // namespace handgrad
