// Argument checks of the host entries. A failed check is an error message: the op, the argument, what was expected,
// what came.
//
// They are the last line, and guard what would otherwise be undefined behaviour, however the op was reached. The Python
// face of an op checks what a user types (names, ranges); what kernels rely on is checked here again, for callers of
// torch.ops.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>

#include "abi/tensor.h"

namespace handgrad {

template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  // The stable ABI turns any std::exception into Python's RuntimeError with this text.
  throw std::runtime_error(text.str());
}

#define HANDGRAD_CHECK(condition, ...) \
  do {                                 \
    if (!(condition)) [[unlikely]] {   \
      ::handgrad::fail(__VA_ARGS__);   \
    }                                  \
  } while (false)

inline std::string shape_text(Sizes sizes) {
  std::ostringstream text;
  text << '(';
  for (size_t d = 0; d < sizes.size(); ++d) text << (d ? ", " : "") << sizes[d];
  text << (sizes.size() == 1 ? ",)" : ")");
  return text.str();
}
inline std::string shape_text(const Tensor& tensor) { return shape_text(tensor.sizes()); }

inline const char* dtype_text(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Bool: return "bool";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    default: return "another dtype";
  }
}

inline bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

inline void check_floating(const char* op, const char* argument, const Tensor& tensor) {
  HANDGRAD_CHECK(is_floating(tensor.scalar_type()), op, ": ", argument,
                 " must be float32, float64, bfloat16 or float16; got ", dtype_text(tensor.scalar_type()));
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  const Sizes left = a.sizes(), right = b.sizes();
  if (left.size() != right.size()) return false;
  for (size_t d = 0; d < left.size(); ++d) {
    if (left[d] != right[d]) return false;
  }
  return true;
}

// The device of `argument` is that of `model`.
inline void check_device(const char* op, const char* argument, const Tensor& tensor, const char* model_name,
                         const Tensor& model) {
  HANDGRAD_CHECK(tensor.is_cpu() == model.is_cpu() && tensor.get_device_index() == model.get_device_index(), op, ": ",
                 argument, " must be on the device of ", model_name);
}

inline void check_dtype_and_device(const char* op, const char* argument, const Tensor& tensor, const char* model_name,
                                   const Tensor& model) {
  HANDGRAD_CHECK(tensor.scalar_type() == model.scalar_type(), op, ": ", argument, " must have the dtype of ",
                 model_name, ", ", dtype_text(model.scalar_type()), "; got ", dtype_text(tensor.scalar_type()));
  check_device(op, argument, tensor, model_name, model);
}

// `argument` goes elementwise with `model`: same shape, dtype and device.
inline void check_like(const char* op, const char* argument, const Tensor& tensor, const char* model_name,
                       const Tensor& model) {
  HANDGRAD_CHECK(same_shape(tensor, model), op, ": ", argument, " must have the shape of ", model_name, ", ",
                 shape_text(model), "; got ", shape_text(tensor));
  check_dtype_and_device(op, argument, tensor, model_name, model);
}

// `dimensions` names them, as in "(batch, channels, height, width)".
inline void check_rank(const char* op, const char* argument, const Tensor& tensor, int64_t rank,
                       const char* dimensions) {
  HANDGRAD_CHECK(tensor.dim() == rank, op, ": ", argument, " must have ", rank, " dimensions ", dimensions, "; got ",
                 shape_text(tensor));
}

// `argument` has this very shape, of which `dimensions` says what it is.
inline void check_shape(const char* op, const char* argument, const Tensor& tensor,
                        std::initializer_list<int64_t> shape, const char* dimensions) {
  const Sizes sizes = tensor.sizes(), wanted(shape.begin(), shape.size());
  HANDGRAD_CHECK(sizes.size() == wanted.size() && std::equal(sizes.begin(), sizes.end(), wanted.begin()), op, ": ",
                 argument, " must have shape ", dimensions, ", here ", shape_text(wanted), "; got ", shape_text(sizes));
}

}  // namespace handgrad
