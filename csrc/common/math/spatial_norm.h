// Normalisations of each channel by a sum of squares over its positions, element by element, with both derivatives:
// what the norms of responses share. Derivation and notation: the docs page of the first.
//
//   y = a x + b,   and where it is rectified max(y, tau)
//
// The scale a belongs to a channel of a sample: a norm makes it of q, the sum of x^2 over the positions, of parameters
// and of totals over channels. What a pass needs of all positions are sums, which the caller takes; a norm turns them
// into factors, and what is left is arithmetic on one element.
#pragma once

#include "math/scalar_math.h"

namespace handgrad {

// Tensors of channels: of a norm, of its directions, and their gradients.
enum SpatialParameter { kWeight, kBias, kTau, kLearnedEps, kSpatialParameters };

// Sums over positions; g is the gradient of y before it was rectified, v the direction for x. A pass has up to four.
enum SpatialSum {
  kSquares,    // x^2
  kSlope,      // g x
  kGrad,       // g, in the gradient
  kRest,       // what of the output's gradient is tau's, in the gradient
  kTurn = 2,   // g v, in the second pass
  kAlong = 3,  // x v, in the second pass
  kSpatialSums = 4
};

// What a channel of a sample brings to its norm: sums of its pass, parameters and their directions. Always double:
// there are few of these, and squares of squares overflow in float.
struct SpatialState {
  double sums[kSpatialSums] = {};
  double weight = 1, learned_eps = 0, direction_weight = 0, direction_eps = 0;
  bool second = false;

  HANDGRAD_MATH double slope() const { return sums[kSlope]; }
  HANDGRAD_MATH double turn() const { return second ? sums[kTurn] : 0; }
  HANDGRAD_MATH double along() const { return second ? sums[kAlong] : 0; }
};

// What a norm makes of it: the scale and its derivative along the directions; what x and v are multiplied by in the
// gradient of x; and a sample's part of the gradients of its parameters.
struct SpatialFactors {
  double scale = 0, moved = 0, of_input = 0, of_direction = 0, grad_weight = 0, grad_eps = 0;
};

// The same in the type that elements are computed in, with the parameters that act on elements.
enum SpatialFactor {
  kScale,
  kShift,
  kFloor,  // tau
  kMoved,
  kOfInput,
  kOfDirection,
  kDirectionShift,
  kDirectionFloor,
  kSpatialFactors
};

// One element, given the factors of its channel.
template <class T, bool Rectified>
struct SpatialElement {
  T scale, shift, floor;

  HANDGRAD_MATH T unrectified(T x) const { return scale * x + shift; }
  // NaN passes, as in torch.maximum.
  HANDGRAD_MATH T value(T x) const {
    const T y = unrectified(x);
    if constexpr (!Rectified) return y;
    return y >= floor || y != y ? y : floor;
  }
  // What of the output's gradient goes on to y, and to tau; of equals each has half, as torch.maximum has it.
  HANDGRAD_MATH T kept(T x, T g) const {
    if constexpr (!Rectified) return g;
    const T y = unrectified(x), shared = y == floor ? g / 2 : g;
    return y < floor ? T(0) : shared;
  }
  HANDGRAD_MATH T cut(T x, T g) const {
    if constexpr (!Rectified) return T(0);
    const T y = unrectified(x), shared = y == floor ? g / 2 : g;
    return y > floor ? T(0) : shared;
  }
  HANDGRAD_MATH T grad_input(T x, T g, T of_input) const { return scale * kept(x, g) + of_input * x; }

  struct Second {
    T grad_grad_output, grad_input;
  };
  HANDGRAD_MATH Second second(T x, T g, T v, T moved, T of_input, T of_direction, T direction_shift,
                              T direction_floor) const {
    const T along = moved * x + (scale * v + direction_shift);
    return {kept(x, along) + cut(x, direction_floor), of_input * x + of_direction * v + moved * kept(x, g)};
  }
};

}  // namespace handgrad
