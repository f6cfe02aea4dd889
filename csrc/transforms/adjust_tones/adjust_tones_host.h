// What the host entries of all devices share: the chain of each image, the checks of a call, and its results.
#pragma once

#include <array>

#include "abi/images.h"
#include "abi/operation_chain.h"
#include "abi/output_mask.h"
#include "adjust_tones_math.h"
#include "kinds/formula.h"

namespace handgrad::adjust_tones {

inline constexpr const char* kOp = "adjust_tones";
inline constexpr ChainWords kWords{kOp, "numbers",
                                   "0 (nothing), 1 (posterize), 2 (solarize), 3 (invert), 4 (autocontrast) or 5 "
                                   "(equalize)"};

struct ChainTable : OperationTable<Operation, Operation::equalize> {
  using OperationTable::OperationTable;

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

using Arguments = ChainArguments;

struct Geometry {
  int64_t batch, channels, height, width, steps;

  HANDGRAD_MATH int64_t pixels() const { return height * width; }
  HANDGRAD_MATH int64_t planes() const { return batch * channels; }
};

inline Geometry check_arguments(const Tensor& image,  // [N, C, H, W]
                                const Arguments& arguments) {
  check_image(kOp, image);
  const Sizes sizes = image.sizes();
  const int64_t steps = check_chain(kWords, static_cast<int32_t>(Operation::equalize), image, arguments);
  return {sizes[0], sizes[1], sizes[2], sizes[3], steps};
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

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has levels(geometry, arguments, image, output), numbers<C>(the same), and gradients<N>(geometry, arguments,
// call) for both derivatives: in plain numbers the first, in dual ones, along the direction, the second.
template <class Device>
Tensor value(const Tensor& image,                      // [N, C, H, W]
             const std::optional<Tensor>& numbers,     // [N, K]
             const std::optional<Tensor>& operations,  // [N, K]
             const std::vector<int64_t>& shared_operations, const std::vector<double>& shared_numbers) {
  const Arguments arguments{operations, numbers, shared_operations, shared_numbers};
  const Geometry geometry = check_arguments(image, arguments);
  const Tensor output = empty_in_layout_of(image);
  if (output.numel() == 0) return output;
  if (image.scalar_type() == ScalarType::Byte) {
    Device::levels(geometry, arguments, image, output);
    return output;
  }
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    Device::template numbers<typename decltype(tag)::type>(geometry, arguments, image, output);
  });
  return output;
}

template <class Device>
Tensor backward(const Tensor& grad_output,                // [N, C, H, W]
                const Tensor& image,                      // [N, C, H, W]
                const std::optional<Tensor>& numbers,     // [N, K]
                const std::optional<Tensor>& operations,  // [N, K]
                const std::vector<int64_t>& shared_operations, const std::vector<double>& shared_numbers,
                const std::vector<bool>& output_mask) {
  const Arguments arguments{operations, numbers, shared_operations, shared_numbers};
  const Geometry geometry = check_derivative(image, arguments, grad_output);
  const Derivative call = backward_of(grad_output, image, output_mask);
  if (call.is_done()) return call.grad_image;
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    Device::template gradients<typename decltype(tag)::type>(geometry, arguments, call);
  });
  return call.grad_image;
}

template <class Device>
std::tuple<Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_image,  // [N, C, H, W]
                                           const Tensor& grad_output,                     // [N, C, H, W]
                                           const Tensor& image,                           // [N, C, H, W]
                                           const std::optional<Tensor>& numbers,          // [N, K]
                                           const std::optional<Tensor>& operations,       // [N, K]
                                           const std::vector<int64_t>& shared_operations,
                                           const std::vector<double>& shared_numbers,
                                           const std::vector<bool>& output_mask) {
  const Arguments arguments{operations, numbers, shared_operations, shared_numbers};
  const Geometry geometry = check_derivative(image, arguments, grad_output);
  const Derivative call = double_backward_of(grad_grad_image, grad_output, image, output_mask);
  if (call.is_done()) return {call.grad_grad_output, call.grad_image};
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    Device::template gradients<Dual<typename decltype(tag)::type>>(geometry, arguments, call);
  });
  return {call.grad_grad_output, call.grad_image};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::adjust_tones
