// What the host entries of all devices share: the chain of each image, the checks of a call, and its results.
#pragma once

#include <array>

#include "abi/images.h"
#include "abi/output_mask.h"
#include "abi/view.h"
#include "adjust_tones_math.h"

namespace handgrad::adjust_tones {

inline constexpr const char* kOp = "adjust_tones";
// The most steps of a chain: a table of them is a parameter of kernels.
inline constexpr int64_t kMostSteps = 8;
inline constexpr int32_t kLastOperation = static_cast<int32_t>(Operation::equalize);

// The operations and numbers of all images: in tensors, each of which may be absent, or in lists.
struct ChainTable {
  View<const int64_t, 2> operations;  // [N, K]
  View<const double, 2> numbers;      // [N, K]
  int64_t steps;
  int32_t shared_operations[kMostSteps];
  double shared_numbers[kMostSteps];

  // A number that is no operation's, in a table that nobody can check, is none.
  HANDGRAD_MATH Operation operation(int64_t n, int64_t k) const {
    if (!operations) return static_cast<Operation>(shared_operations[k]);
    const int64_t number = *operations.at(n, k);
    return static_cast<Operation>(number < 0 || number > kLastOperation ? 0 : number);
  }
  HANDGRAD_MATH double number(int64_t n, int64_t k) const { return numbers ? *numbers.at(n, k) : shared_numbers[k]; }

  // Whether an operation of image n leaves no slope.
  HANDGRAD_MATH bool is_flat(int64_t n) const {
    for (int64_t k = 0; k < steps; ++k) {
      if (adjust_tones::is_flat(operation(n, k))) return true;
    }
    return false;
  }
  HANDGRAD_MATH bool has_statistic(int64_t n) const {
    for (int64_t k = 0; k < steps; ++k) {
      if (adjust_tones::has_statistic(operation(n, k))) return true;
    }
    return false;
  }
};

// The numbers of an op, as its schema has them.
struct Arguments {
  const std::optional<Tensor>&numbers, &operations;  // [N, K]
  const std::vector<int64_t>& shared_operations;
  const std::vector<double>& shared_numbers;
};

struct Geometry {
  int64_t batch, channels, height, width, steps;

  HANDGRAD_MATH int64_t pixels() const { return height * width; }
  HANDGRAD_MATH int64_t planes() const { return batch * channels; }
};

inline void check_chain(const Geometry& geometry, const Tensor& image, const Arguments& arguments) {
  if (arguments.operations) {
    HANDGRAD_CHECK(arguments.operations->scalar_type() == ScalarType::Long, kOp, ": operations must be int64; got ",
                   dtype_text(arguments.operations->scalar_type()));
    check_device(kOp, "operations", *arguments.operations, "image", image);
    check_shape(kOp, "operations", *arguments.operations, {geometry.batch, geometry.steps}, "(images, steps)");
  } else {
    for (const int64_t number : arguments.shared_operations) {
      HANDGRAD_CHECK(number >= 0 && number <= kLastOperation, kOp,
                     ": operations must be 0 (nothing), 1 (posterize), 2 (solarize), 3 (invert), 4 (autocontrast) or 5 "
                     "(equalize); got ",
                     number);
    }
  }
  if (arguments.numbers) {
    HANDGRAD_CHECK(arguments.numbers->scalar_type() == ScalarType::Double, kOp, ": numbers must be float64; got ",
                   dtype_text(arguments.numbers->scalar_type()));
    check_device(kOp, "numbers", *arguments.numbers, "image", image);
    check_shape(kOp, "numbers", *arguments.numbers, {geometry.batch, geometry.steps}, "(images, steps)");
  } else {
    HANDGRAD_CHECK(static_cast<int64_t>(arguments.shared_numbers.size()) == geometry.steps, kOp,
                   ": numbers must be one for each operation, ", geometry.steps, "; got ",
                   arguments.shared_numbers.size());
  }
}

inline Geometry check_arguments(const Tensor& image,  // [N, C, H, W]
                                const Arguments& arguments) {
  check_image(kOp, image);
  const Sizes sizes = image.sizes();
  int64_t steps = static_cast<int64_t>(arguments.shared_operations.size());
  if (arguments.operations) {
    check_rank(kOp, "operations", *arguments.operations, 2, "(images, steps)");
    steps = arguments.operations->sizes()[1];
  }
  HANDGRAD_CHECK(steps <= kMostSteps, kOp, ": operations must be at most ", kMostSteps, "; got ", steps);
  const Geometry geometry{sizes[0], sizes[1], sizes[2], sizes[3], steps};
  check_chain(geometry, image, arguments);
  return geometry;
}

inline ChainTable chain_table(const Geometry& geometry, const Arguments& arguments) {
  ChainTable table{view<int64_t, 2>(arguments.operations), view<double, 2>(arguments.numbers), geometry.steps, {}, {}};
  if (!table.operations) {
    for (size_t k = 0; k < arguments.shared_operations.size(); ++k)
      table.shared_operations[k] = static_cast<int32_t>(arguments.shared_operations[k]);
  }
  if (!table.numbers) std::copy(arguments.shared_numbers.begin(), arguments.shared_numbers.end(), table.shared_numbers);
  return table;
}

// Whether step k of an image may be this operation: of a table on a device a host knows nothing.
inline bool may_be(const Arguments& arguments, int64_t k, Operation operation) {
  return arguments.operations || arguments.shared_operations[static_cast<size_t>(k)] == static_cast<int64_t>(operation);
}

// What the derivatives share: the image must be one that has any.
inline Geometry check_derivative(const Tensor& image, const Arguments& arguments, const Tensor& grad_output) {
  check_floating(kOp, "image", image);
  const Geometry geometry = check_arguments(image, arguments);
  check_like(kOp, "grad_output", grad_output, "image", image);
  return geometry;
}

// The tensors of a derivative; a direction that is not there is null. In the backward nothing is differentiated along
// one, and there is no gradient of grad_output.
struct Derivative {
  const Tensor *image, *grad_output, *direction;  // [N, C, H, W]
  Tensor grad_grad_output, grad_image;            // [N, C, H, W]
  bool wants_output, wants_image;

  bool is_done() const { return !(wants_output || wants_image) || image->numel() == 0; }
};

inline Derivative backward_of(const Tensor& grad_output, const Tensor& image, const std::vector<bool>& output_mask) {
  const bool wanted = as_output_mask<1>(kOp, output_mask)[0];
  return {&image, &grad_output, nullptr, empty_placeholder(image), empty_gradient(wanted, image), false, wanted};
}

inline Derivative double_backward_of(const std::optional<Tensor>& grad_grad_image, const Tensor& grad_output,
                                     const Tensor& image, const std::vector<bool>& output_mask) {
  const std::array<bool, 2> mask = as_output_mask<2>(kOp, output_mask);
  Derivative call{&image,
                  &grad_output,
                  grad_grad_image ? &*grad_grad_image : nullptr,
                  empty_gradient(mask[0], image),
                  empty_gradient(mask[1], image),
                  mask[0],
                  mask[1]};
  if (grad_grad_image) {
    check_like(kOp, "grad_grad_image", *grad_grad_image, "image", image);
    return call;
  }
  // Along no direction all is zero.
  if (mask[0]) fill_zero(call.grad_grad_output);
  if (mask[1]) fill_zero(call.grad_image);
  call.wants_output = call.wants_image = false;
  return call;
}

}  // namespace handgrad::adjust_tones
