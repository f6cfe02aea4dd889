// From a dtype known at run time to a C++ type known at compile time.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

#include "abi/check.h"
#include "abi/macros.h"

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

// The dtype of a tensor of float or double.
template <class C>
inline constexpr ScalarType kDtype = std::is_same_v<C, double> ? ScalarType::Double : ScalarType::Float;

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

// Bytes of an element of a floating-point dtype.
inline int64_t element_size(ScalarType dtype) {
  return dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2;
}

// Calls body(TypeTag<C>{}) with the type that `dtype` is computed in: for code that reads memory with
// dispatch_storage, and so exists once for each type that it computes in.
template <class Body>
void dispatch_compute(const char* op, ScalarType dtype, Body&& body) {
  if (dtype == ScalarType::Double) {
    body(TypeTag<double>{});
  } else {
    HANDGRAD_CHECK(is_floating(dtype), op, ": no kernel for ", dtype_text(dtype));
    body(TypeTag<float>{});
  }
}

// Calls body(TypeTag<T>{}) with the type of `dtype` in memory, one of those that are computed in C.
template <class C, class Body>
HANDGRAD_MATH void dispatch_storage(ScalarType dtype, const Body& body) {
  if constexpr (std::is_same_v<C, double>) {
    body(TypeTag<double>{});
  } else if (dtype == ScalarType::BFloat16) {
    body(TypeTag<BFloat16>{});
  } else if (dtype == ScalarType::Half) {
    body(TypeTag<Half>{});
  } else {
    body(TypeTag<float>{});
  }
}

// Calls body(std::true_type{}) or body(std::false_type{}): a run-time choice made once, outside the loops.
template <class Body>
auto dispatch_bool(bool value, Body&& body) {
  return value ? body(std::true_type{}) : body(std::false_type{});
}

}  // namespace handgrad
