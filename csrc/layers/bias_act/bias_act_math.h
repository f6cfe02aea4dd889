// Activations of one element, with both derivatives. Derivation: docs/layers/bias_act.md. With z = x + b and an
// activation a:
//
//   y = min(max(gain a(z), -clamp), clamp)
//
// At kinks, and of NaN, they decide as torch's own ops: by a selection where these select.
#pragma once

#include <cstdint>

#include "abi/dtype.h"
#include "math/clamped_activation.h"
#include "math/expm1.h"
#include "math/sigmoid.h"

namespace handgrad::bias_act {

// In the order of the Python module's list.
enum Act : int64_t { kLinear, kRelu, kLrelu, kTanh, kSigmoid, kElu, kSelu, kSoftplus, kSwish, kActs };

// As in the schema.
struct Numbers : ActivationNumbers {
  int64_t act;
};

template <class T, class A>
using Formula = ClampedActivation<T, A, Numbers>;

// ---- activations: value, g a'(z), a''(z) ----------------------------------------------------------------------------

template <class T>
struct Linear {
  static constexpr bool is_curved = false;
  HANDGRAD_MATH explicit Linear(const Numbers&) {}
  HANDGRAD_MATH T value(T z) const { return z; }
  HANDGRAD_MATH T pull(T, T g) const { return g; }
  HANDGRAD_MATH T curvature(T) const { return 0; }
};

template <class T>
struct Relu {
  static constexpr bool is_curved = false;
  HANDGRAD_MATH explicit Relu(const Numbers&) {}
  HANDGRAD_MATH T value(T z) const { return z <= 0 ? T(0) : z; }
  HANDGRAD_MATH T pull(T z, T g) const { return z <= 0 ? T(0) : g; }
  HANDGRAD_MATH T curvature(T) const { return 0; }
};

// From the side on which nothing overflows: tanh |z| = -m / (2 + m) with m = exp(-2 |z|) - 1.
template <class T>
struct Tanh {
  static constexpr bool is_curved = true;
  HANDGRAD_MATH explicit Tanh(const Numbers&) {}
  HANDGRAD_MATH T value(T z) const {
    const T m = expm1_decay(2 * absolute(z)), size = -m / (2 + m);
    return z < 0 ? -size : size;
  }
  HANDGRAD_MATH T pull(T z, T g) const { return g * slope(value(z)); }
  HANDGRAD_MATH T curvature(T z) const {
    const T y = value(z);
    return -2 * y * slope(y);
  }

 private:
  HANDGRAD_MATH static T slope(T y) { return (1 - y) * (1 + y); }
};

template <class T>
struct Logistic {
  static constexpr bool is_curved = true;
  HANDGRAD_MATH explicit Logistic(const Numbers&) {}
  HANDGRAD_MATH T value(T z) const { return Sigmoid<T>(z).value; }
  HANDGRAD_MATH T pull(T z, T g) const { return g * Sigmoid<T>(z).slope; }
  HANDGRAD_MATH T curvature(T z) const {
    const Sigmoid<T> s(z);
    return s.slope * (s.positive ? -s.rise : s.rise);
  }
};

// ELU, and SELU with its two constants (Klambauer et al., Self-Normalizing Neural Networks, 2017, section 2).
template <class T>
struct Elu {
  static constexpr bool is_curved = true;
  T above, below;
  HANDGRAD_MATH explicit Elu(const Numbers& numbers)
      : above(numbers.act == kSelu ? T(1.0507009873554804934193349852946) : T(1)),
        below(numbers.act == kSelu ? T(1.0507009873554804934193349852946 * 1.6732632423543772848170429916717) : T(1)) {}
  HANDGRAD_MATH T value(T z) const { return z > 0 ? above * z : below * expm1_decay(absolute(z)); }
  HANDGRAD_MATH T pull(T z, T g) const { return z > 0 ? above * g : below * exp_decay(absolute(z)) * g; }
  // At 0 it is the right side's, where the slope is the left's: torch's choice.
  HANDGRAD_MATH T curvature(T z) const { return z >= 0 ? T(0) : below * exp_decay(absolute(z)); }
};

template <class T>
struct Softplus {
  static constexpr bool is_curved = true;
  HANDGRAD_MATH explicit Softplus(const Numbers&) {}
  HANDGRAD_MATH T value(T z) const { return (z > 0 ? z : T(0)) + log1p_unit(exp_decay(absolute(z))); }
  HANDGRAD_MATH T pull(T z, T g) const { return g * Sigmoid<T>(z).value; }
  HANDGRAD_MATH T curvature(T z) const { return Sigmoid<T>(z).slope; }
};

template <class T>
struct Swish {
  static constexpr bool is_curved = true;
  HANDGRAD_MATH explicit Swish(const Numbers&) {}
  HANDGRAD_MATH T value(T z) const {
    const T s = Sigmoid<T>(z).value;
    // At minus infinity, the limit; -inf * 0 would be NaN.
    return s == 0 ? T(0) : z * s;
  }
  HANDGRAD_MATH T pull(T z, T g) const { return g * Sigmoid<T>(z).slope_of_product(); }
  HANDGRAD_MATH T curvature(T z) const { return Sigmoid<T>(z).curvature_of_product(); }
};

// body(TypeTag<Formula<T, A>>{}) with the activation's formula.
template <class T, class Body>
auto with_formula(int64_t act, const Body& body) {
  switch (act) {
    case kRelu: return body(TypeTag<Formula<T, Relu<T>>>{});
    case kLrelu: return body(TypeTag<Formula<T, LeakyRelu<T>>>{});
    case kTanh: return body(TypeTag<Formula<T, Tanh<T>>>{});
    case kSigmoid: return body(TypeTag<Formula<T, Logistic<T>>>{});
    case kElu:
    case kSelu: return body(TypeTag<Formula<T, Elu<T>>>{});
    case kSoftplus: return body(TypeTag<Formula<T, Softplus<T>>>{});
    case kSwish: return body(TypeTag<Formula<T, Swish<T>>>{});
    default: return body(TypeTag<Formula<T, Linear<T>>>{});
  }
}

}  // namespace handgrad::bias_act
