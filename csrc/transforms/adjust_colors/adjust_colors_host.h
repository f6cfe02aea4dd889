// What the host entries of all devices share: the chain of each image, the checks of a call, and its results.
#pragma once

#include <array>

#include "abi/images.h"
#include "abi/operation_chain.h"
#include "abi/output_mask.h"
#include "adjust_colors_math.h"

namespace handgrad::adjust_colors {

inline constexpr const char* kOp = "adjust_colors";
inline constexpr ChainWords kWords{kOp, "factors",
                                   "0 (nothing), 1 (brightness), 2 (contrast), 3 (saturation), 4 (hue) or 5 "
                                   "(grayscale)"};

// The operations of all images, their factors, and directions of these.
struct ChainTable : OperationTable<Operation, Operation::grayscale> {
  View<const double, 2> directions;  // [N, K]

  ChainTable() = default;
  ChainTable(const ChainArguments& arguments, int64_t steps, const std::optional<Tensor>& directions)
      : OperationTable(arguments, steps), directions(view<double, 2>(directions)) {}

  HANDGRAD_MATH double direction(int64_t n, int64_t k) const { return directions ? *directions.at(n, k) : 0.0; }

  // Step k of image n, but for its mean.
  template <class C>
  HANDGRAD_MATH void fill(int64_t n, int64_t k, Step<C>& step) const {
    const double number = this->number(n, k);
    step = {operation(n, k), static_cast<C>(number), static_cast<C>(1.0 - number), C(0)};
  }
  template <class C>
  HANDGRAD_MATH void fill(int64_t n, int64_t k, Step<Dual<C>>& step) const {
    const double number = this->number(n, k);
    const C along = static_cast<C>(direction(n, k));
    step = {operation(n, k), {static_cast<C>(number), along}, {static_cast<C>(1.0 - number), -along}, Dual<C>(0)};
  }
};

// The numbers of an op, as its schema has them.
struct Arguments {
  const std::optional<Tensor>&factors, &operations;  // [N, K]
  const std::vector<int64_t>& shared_operations;
  const std::vector<double>& shared_factors;
  ScalarType dtype;
  const std::vector<double>&mean, &std;
  int64_t memory_format;
  int64_t scaling;

  ChainArguments chain() const { return {operations, factors, shared_operations, shared_factors}; }
};

struct Geometry {
  int64_t batch, channels, height, width, steps;

  HANDGRAD_MATH int64_t pixels() const { return height * width; }
};

inline Geometry check_arguments(const Tensor& image,  // [N, C, H, W]
                                const Arguments& arguments) {
  check_image(kOp, image);
  const Sizes sizes = image.sizes();
  HANDGRAD_CHECK(sizes[1] == 1 || sizes[1] == 3, kOp, ": image must have 1 or 3 channels; got ", sizes[1]);
  check_finish(kOp, image,
               {arguments.dtype, arguments.mean, arguments.std, arguments.memory_format, arguments.scaling});
  const int64_t steps = check_chain(kWords, static_cast<int32_t>(Operation::grayscale), image, arguments.chain());
  return {sizes[0], sizes[1], sizes[2], sizes[3], steps};
}

inline ChainTable chain_table(const Geometry& geometry, const Arguments& arguments,
                              const std::optional<Tensor>& directions = std::nullopt) {  // [N, K]
  return {arguments.chain(), geometry.steps, directions};
}

// Whether a host knows that no image has its mean taken at step k: of a table on a device it knows nothing.
inline bool may_have_mean(const Arguments& arguments, int64_t k) {
  return arguments.operations ||
         arguments.shared_operations[static_cast<size_t>(k)] == static_cast<int64_t>(Operation::contrast);
}

inline Tensor empty_output(const Tensor& image, const Arguments& arguments) {
  return empty_image(image.sizes(), arguments.dtype, arguments.memory_format, image);
}

// What the derivatives share: the image must be one that has any.
inline Geometry check_derivative(const Tensor& image, const Arguments& arguments, const Tensor& grad_output) {
  check_floating(kOp, "image", image);
  const Geometry geometry = check_arguments(image, arguments);
  check_like(kOp, "grad_output", grad_output, "image", image);
  return geometry;
}

// A gradient of the factors, where there are any.
inline Tensor empty_factors(bool wanted, const std::optional<Tensor>& factors, const Tensor& image) {
  return factors ? empty_gradient(wanted, *factors) : empty_placeholder(image);
}

struct BackwardResults {
  bool wants_image, wants_factors;
  Tensor grad_image;    // [N, C, H, W]
  Tensor grad_factors;  // [N, K]

  BackwardResults(const Tensor& image, const std::optional<Tensor>& factors, const std::array<bool, 2>& mask)
      : wants_image(mask[0]),
        wants_factors(mask[1] && factors),
        grad_image(empty_gradient(mask[0], image)),
        grad_factors(empty_factors(mask[1], factors, image)) {
    if (wants_factors && image.numel() == 0) fill_zero(grad_factors);
  }

  bool is_done(const Tensor& image) const { return !(wants_image || wants_factors) || image.numel() == 0; }
};

struct DoubleBackwardResults : BackwardResults {
  bool wants_output, has_direction;
  Tensor grad_grad_output;  // [N, C, H, W]

  DoubleBackwardResults(const Tensor& image, const std::optional<Tensor>& factors,
                        const std::optional<Tensor>& grad_grad_image, const std::optional<Tensor>& grad_grad_factors,
                        const std::array<bool, 3>& mask)
      : BackwardResults(image, factors, {mask[1], mask[2]}),
        wants_output(mask[0]),
        has_direction(grad_grad_image || grad_grad_factors),
        grad_grad_output(empty_gradient(mask[0], image)) {
    if (grad_grad_image) check_like(kOp, "grad_grad_image", *grad_grad_image, "image", image);
    if (grad_grad_factors) {
      HANDGRAD_CHECK(factors, kOp, ": grad_grad_factors must be None without factors");
      check_like(kOp, "grad_grad_factors", *grad_grad_factors, "factors", *factors);
    }
    if (has_direction) return;
    if (wants_output) fill_zero(grad_grad_output);
    if (wants_image) fill_zero(grad_image);
    if (wants_factors) fill_zero(grad_factors);
  }

  bool is_done(const Tensor& image) const {
    return !has_direction || (!wants_output && BackwardResults::is_done(image)) || image.numel() == 0;
  }
};

}  // namespace handgrad::adjust_colors
