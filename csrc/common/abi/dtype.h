// From a dtype known at run time to a C++ type known at compile time.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "abi/check.h"

namespace handgrad {

using BFloat16 = c10::BFloat16;
using Half = c10::Half;

// The type an element is computed in: half types are stored in 16 bits and computed in 32.
template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeType<T>::type;

template <class T>
struct TypeTag {
  using type = T;
};

// Calls body(TypeTag<T>{}) with the C++ type of `dtype`.
template <class Body>
auto dispatch_floating(const char* op, ScalarType dtype, Body&& body) {
  switch (dtype) {
    case ScalarType::Float: return body(TypeTag<float>{});
    case ScalarType::Double: return body(TypeTag<double>{});
    case ScalarType::BFloat16: return body(TypeTag<BFloat16>{});
    case ScalarType::Half: return body(TypeTag<Half>{});
    default: fail(op, ": no kernel for ", dtype_text(dtype));
  }
}

// Calls body(std::true_type{}) or body(std::false_type{}): a run-time choice made once, outside the loops.
template <class Body>
auto dispatch_bool(bool value, Body&& body) {
  return value ? body(std::true_type{}) : body(std::false_type{});
}

}  // namespace handgrad
