// Registers kernels: the one line at the bottom of a file with host entries.
//
//   STABLE_TORCH_LIBRARY_IMPL(my_ops, CPU, library) { handgrad::implement<my_ops::my_op_cpu>(library, "my_op"); }
//
// A schema gives types to an op's arguments and a function has its own, and torch takes one for the other without
// asking: an int64_t where the schema says float holds the bits of a double. So each library can say the types of its
// functions, and the build compares them with the schemas (python/handgrad/sdk/checking.py).
#pragma once

#include <array>
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
  static constexpr const char* name = "*";
};
template <>
struct SchemaType<Tensor> {
  static constexpr const char* name = "Tensor";
};
template <>
struct SchemaType<int64_t> {
  static constexpr const char* name = "int";
};
template <>
struct SchemaType<double> {
  static constexpr const char* name = "float";
};
template <>
struct SchemaType<bool> {
  static constexpr const char* name = "bool";
};
template <>
struct SchemaType<std::string> {
  static constexpr const char* name = "str";
};

// A type as two words: what is around it, and its name.
struct SchemaWord {
  const char *around, *name;
};
template <class T>
struct SchemaWordOf {
  static constexpr SchemaWord value{"", SchemaType<T>::name};
};
template <class T>
struct SchemaWordOf<std::optional<T>> {
  static constexpr SchemaWord value{"Optional", SchemaType<T>::name};
};
template <class T>
struct SchemaWordOf<std::vector<T>> {
  static constexpr SchemaWord value{"List", SchemaType<T>::name};
};

// The types of a list of arguments or results.
template <class... T>
struct SchemaWords {
  static constexpr std::array<SchemaWord, sizeof...(T)> value{SchemaWordOf<T>::value...};
};
template <>
struct SchemaWords<void> : SchemaWords<> {};
template <class... T>
struct SchemaWords<std::tuple<T...>> : SchemaWords<T...> {};

// Not inlined, here and below: it runs once for each kernel, when the library is loaded.
[[gnu::cold, gnu::noipa]] inline void append(std::string& line, const SchemaWord* words, size_t count) {
  for (const SchemaWord* word = words; word != words + count; ++word) {
    if (word != words) line += ' ';
    line += word->around;
    if (*word->around) line += '[';
    line += word->name;
    if (*word->around) line += ']';
  }
}

// A line for each kernel of this library: its op, and the types of what its function takes and returns.
inline std::string& signatures() {
  static std::string lines;
  return lines;
}

[[gnu::cold, gnu::noipa]] inline void add_signature(const char* op, const SchemaWord* arguments, size_t argument_count,
                                                    const SchemaWord* results, size_t result_count) {
  std::string& lines = signatures();
  lines += op;
  lines += '\t';
  append(lines, arguments, argument_count);
  lines += '\t';
  append(lines, results, result_count);
  lines += '\n';
}

template <class Result, class... Argument>
void add_signature(const char* op, Result (*)(Argument...)) {
  constexpr auto& arguments = SchemaWords<std::remove_cvref_t<Argument>...>::value;
  constexpr auto& results = SchemaWords<Result>::value;
  add_signature(op, arguments.data(), arguments.size(), results.data(), results.size());
}

}  // namespace detail

// Registers Function as the kernel of `op`, on the device that `library` is for.
template <auto Function, class Library>
void implement(Library& library, const char* op) {
  library.impl(op, TORCH_BOX(Function));
  detail::add_signature(op, Function);
}

}  // namespace handgrad

// Read by the build, through ctypes.
extern "C" __attribute__((visibility("default"), used)) inline const char* handgrad_signatures() {
  return handgrad::detail::signatures().c_str();
}
