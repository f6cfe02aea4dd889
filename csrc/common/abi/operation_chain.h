// Chains of operations on images, each with a number: the same for all images, in lists, or a row for each, in tensors.
#pragma once

#include <algorithm>

#include "abi/check.h"
#include "abi/view.h"

namespace handgrad {

// The most steps of a chain: a table of them is a parameter of kernels.
inline constexpr int64_t kMostSteps = 8;

// As schemas have them.
struct ChainArguments {
  const std::optional<Tensor>&operations, &numbers;  // [N, K]
  const std::vector<int64_t>& shared_operations;
  const std::vector<double>& shared_numbers;
};

// What messages call them: the numbers, and what each operation's number means.
struct ChainWords {
  const char *op, *numbers, *operations;
};

inline void check_rows(const ChainWords& words, const char* name, const Tensor& rows, ScalarType dtype,
                       const Tensor& image, int64_t steps) {
  HANDGRAD_CHECK(rows.scalar_type() == dtype, words.op, ": ", name, " must be ", dtype_text(dtype), "; got ",
                 dtype_text(rows.scalar_type()));
  check_device(words.op, name, rows, "image", image);
  check_shape(words.op, name, rows, {image.sizes()[0], steps}, "(images, steps)");
}

// The steps of a chain; `last`: the number of the last operation.
inline int64_t check_chain(const ChainWords& words, int32_t last, const Tensor& image,
                           const ChainArguments& arguments) {
  int64_t steps = static_cast<int64_t>(arguments.shared_operations.size());
  if (arguments.operations) {
    check_rank(words.op, "operations", *arguments.operations, 2, "(images, steps)");
    steps = arguments.operations->sizes()[1];
  }
  HANDGRAD_CHECK(steps <= kMostSteps, words.op, ": operations must be at most ", kMostSteps, "; got ", steps);
  if (arguments.operations) {
    check_rows(words, "operations", *arguments.operations, ScalarType::Long, image, steps);
  } else {
    for (const int64_t number : arguments.shared_operations) {
      HANDGRAD_CHECK(number >= 0 && number <= last, words.op, ": operations must be ", words.operations, "; got ",
                     number);
    }
  }
  if (arguments.numbers) {
    check_rows(words, words.numbers, *arguments.numbers, ScalarType::Double, image, steps);
  } else {
    HANDGRAD_CHECK(static_cast<int64_t>(arguments.shared_numbers.size()) == steps, words.op, ": ", words.numbers,
                   " must be one for each operation, ", steps, "; got ", arguments.shared_numbers.size());
  }
  return steps;
}

// The chains of all images as kernels see them. Last: of the operations, whose first, 0, does nothing.
template <class Operation, Operation Last>
struct OperationTable {
  View<const int64_t, 2> operations;  // [N, K]
  View<const double, 2> numbers;      // [N, K]
  int64_t steps = 0;
  int32_t shared_operations[kMostSteps] = {};
  double shared_numbers[kMostSteps] = {};

  OperationTable() = default;
  OperationTable(const ChainArguments& arguments, int64_t steps)
      : operations(view<int64_t, 2>(arguments.operations)), numbers(view<double, 2>(arguments.numbers)), steps(steps) {
    if (!operations) {
      for (size_t k = 0; k < arguments.shared_operations.size(); ++k) {
        shared_operations[k] = static_cast<int32_t>(arguments.shared_operations[k]);
      }
    }
    if (!numbers) std::copy(arguments.shared_numbers.begin(), arguments.shared_numbers.end(), shared_numbers);
  }

  // A number that is no operation's, in a table that nobody can check, is none.
  HANDGRAD_MATH Operation operation(int64_t n, int64_t k) const {
    if (!operations) return static_cast<Operation>(shared_operations[k]);
    const int64_t number = *operations.at(n, k);
    return static_cast<Operation>(number < 0 || number > static_cast<int64_t>(Last) ? 0 : number);
  }
  HANDGRAD_MATH double number(int64_t n, int64_t k) const { return numbers ? *numbers.at(n, k) : shared_numbers[k]; }
};

}  // namespace handgrad
