// Registers kernels: the one line at the bottom of a file with host entries.
//
//   STABLE_TORCH_LIBRARY_IMPL(my_ops, CPU, library) { handgrad::implement<my_ops::my_op_cpu>(library, "my_op"); }
//
// A schema gives types to an op's arguments and a function has its own, and torch takes one for the other without
// asking: an int64_t where the schema says float holds the bits of a double. So each library can say the types of its
// functions, and the build compares them with the schemas (python/handgrad/sdk/checking.py).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "abi/tensor.h"

namespace handgrad {
namespace detail {

// The word that torch prints for a type of a schema; "*" for what is not compared.
template <class T>
struct SchemaType {
  static_assert(!std::is_arithmetic_v<T>, "an argument of a kernel must be int64_t, double or bool if it is a number");
  static std::string name() { return "*"; }
};
template <>
struct SchemaType<Tensor> {
  static std::string name() { return "Tensor"; }
};
template <>
struct SchemaType<int64_t> {
  static std::string name() { return "int"; }
};
template <>
struct SchemaType<double> {
  static std::string name() { return "float"; }
};
template <>
struct SchemaType<bool> {
  static std::string name() { return "bool"; }
};
template <>
struct SchemaType<std::string> {
  static std::string name() { return "str"; }
};
template <class T>
struct SchemaType<std::optional<T>> {
  static std::string name() { return "Optional[" + SchemaType<T>::name() + "]"; }
};
template <class T>
struct SchemaType<std::vector<T>> {
  static std::string name() { return "List[" + SchemaType<T>::name() + "]"; }
};

template <class... T>
std::string schema_types() {
  std::string all;
  ((all += all.empty() ? SchemaType<T>::name() : ' ' + SchemaType<T>::name()), ...);
  return all;
}

template <class Result>
struct SchemaResults {
  static std::string names() { return schema_types<Result>(); }
};
template <>
struct SchemaResults<void> {
  static std::string names() { return ""; }
};
template <class... Result>
struct SchemaResults<std::tuple<Result...>> {
  static std::string names() { return schema_types<Result...>(); }
};

template <class Result, class... Argument>
std::string signature(Result (*)(Argument...)) {
  return schema_types<std::remove_cvref_t<Argument>...>() + '\t' + SchemaResults<Result>::names();
}

// A line for each kernel of this library: its op, and the types of what its function takes and returns.
inline std::string& signatures() {
  static std::string lines;
  return lines;
}

}  // namespace detail

// Registers Function as the kernel of `op`, on the device that `library` is for.
template <auto Function, class Library>
void implement(Library& library, const char* op) {
  library.impl(op, TORCH_BOX(Function));
  detail::signatures() += std::string(op) + '\t' + detail::signature(Function) + '\n';
}

}  // namespace handgrad

// Read by the build, through ctypes.
extern "C" __attribute__((visibility("default"), used)) inline const char* handgrad_signatures() {
  return handgrad::detail::signatures().c_str();
}
