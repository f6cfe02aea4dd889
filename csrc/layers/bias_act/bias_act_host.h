// What the host entries of all devices share: checks, operands, results, and the entries themselves, of passes that a
// device brings.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "abi/channels.h"
#include "abi/check.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "bias_act_math.h"
#include "kinds/formula.h"
#include "math/stored.h"

namespace handgrad::bias_act {

inline constexpr const char* kOp = "bias_act";

// What is computed of an element with z = x + b, u = g + w, g being a gradient or a direction of x:
//   value    y
//   pull     u dy/dz: the backward; and, of directions, the gradient of grad_output
//   second   that, and grad_output u d²y/dz²
enum class Pass { value, pull, second };

// The operands of a pass; what is not there is not read, or not written.
struct Operands {
  Numbers numbers;
  ChannelTensor x;                              // [N, C, P]
  std::optional<Tensor> b, w;                   // [C]
  std::optional<ChannelTensor> g, grad_output;  // [N, C, P]
  std::optional<ChannelTensor> first, second;   // [N, C, P]: value or pull; what the second pass has beside it
  std::optional<Tensor> sums;                   // [C], of `second` there, else of `first`
};

// The same as kernels see it, computed in C.
template <class C>
struct Views {
  int64_t batch, channels, positions;
  StoredView<const C, 3> x, g, grad_output;
  StoredView<C, 3> first, second;
  View<const C, 1> b, w;
  C* sums;

  explicit Views(const Operands& operands)
      : batch(operands.x.batch),
        channels(operands.x.channels),
        positions(operands.x.positions),
        x(stored_view<C>(operands.x)),
        b(view<C, 1>(operands.b)),
        w(view<C, 1>(operands.w)),
        sums(operands.sums ? operands.sums->template mutable_data_ptr<C>() : nullptr) {
    if (operands.g) g = stored_view<C>(*operands.g);
    if (operands.grad_output) grad_output = stored_view<C>(*operands.grad_output);
    if (operands.first) first = mutable_stored_view<C>(*operands.first);
    if (operands.second) second = mutable_stored_view<C>(*operands.second);
    join_batch();
  }

  // Channels lie densely in memory, and positions do not.
  bool channels_innermost() const { return x.strides[1] == 1 && x.strides[2] != 1; }

 private:
  // Samples whose positions continue those of the sample before are one.
  void join_batch() {
    const auto continues = [&](const auto& view) {
      return !view || batch == 1 || positions == 1 || view.strides[0] == positions * view.strides[2];
    };
    if (!(continues(x) && continues(g) && continues(grad_output) && continues(first) && continues(second))) return;
    const auto join = [&](auto& view) {
      if (positions == 1) view.strides[2] = view.strides[0];
    };
    join(x), join(g), join(grad_output), join(first), join(second);
    positions *= batch;
    batch = 1;
  }
};

// ---- checks ---------------------------------------------------------------------------------------------------------

inline ScalarType computed(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_of_channels(const char* argument, const std::optional<Tensor>& tensor, const Tensor& x) {
  if (!tensor) return;
  check_shape(kOp, argument, *tensor, {x.sizes()[1]}, "(channels,)");
  HANDGRAD_CHECK(tensor->scalar_type() == computed(x), kOp, ": ", argument, " must be ", dtype_text(computed(x)),
                 " beside an x of ", dtype_text(x.scalar_type()), "; got ", dtype_text(tensor->scalar_type()));
  check_device(kOp, argument, *tensor, "x", x);
}

inline Operands checked(const Tensor& x, const std::optional<Tensor>& b, const Numbers& numbers) {
  check_floating(kOp, "x", x);
  HANDGRAD_CHECK(x.dim() >= 2, kOp, ": x must have at least 2 dimensions (batch, channels, positions...); got ",
                 shape_text(x));
  HANDGRAD_CHECK(numbers.act >= 0 && numbers.act < kActs, kOp, ": act must be from 0 to ", kActs - 1, "; got ",
                 numbers.act);
  check_of_channels("b", b, x);
  return {numbers, ChannelTensor(x), b, {}, {}, {}, {}, {}, {}};
}

// A gradient of [C].
inline Tensor empty_of_channels(bool wanted, const Tensor& x) {
  const int64_t count = wanted ? x.sizes()[1] : 0;
  return computed(x) == ScalarType::Double ? empty_vector<double>(count, x) : empty_vector<float>(count, x);
}

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has run<C>(Pass, Operands).
template <class Device>
void run(Pass pass, const Operands& operands) {
  dispatch_compute(kOp, operands.x.tensor.scalar_type(),
                   [&](auto tag) { Device::template run<typename decltype(tag)::type>(pass, operands); });
}

template <class Device>
Tensor value(const Tensor& x,                 // [N, C, ...]
             const std::optional<Tensor>& b,  // [C]
             int64_t act, double alpha, double gain, double clamp) {
  Operands operands = checked(x, b, {{alpha, gain, clamp}, act});
  const Tensor output = empty_in_layout_of(x);
  if (x.numel() == 0) return output;
  operands.first = ChannelTensor(output);
  run<Device>(Pass::value, operands);
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,       // as x
                                    const Tensor& x,                 // [N, C, ...]
                                    const std::optional<Tensor>& b,  // [C]
                                    int64_t act, double alpha, double gain, double clamp,
                                    const std::vector<bool>& output_mask) {
  Operands operands = checked(x, b, {{alpha, gain, clamp}, act});
  check_like(kOp, "grad_output", grad_output, "x", x);
  std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  wanted[1] = wanted[1] && b;
  const Tensor grad_x = empty_gradient(wanted[0], x), grad_b = empty_of_channels(wanted[1], x);
  if (x.numel() == 0) {
    fill_zero(grad_b);
  } else if (wanted[0] || wanted[1]) {
    operands.g = ChannelTensor(grad_output);
    if (wanted[0]) operands.first = ChannelTensor(grad_x);
    if (wanted[1]) operands.sums = grad_b;
    run<Device>(Pass::pull, operands);
  }
  return {grad_x, grad_b};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_x,  // as x
                                                   const std::optional<Tensor>& grad_grad_b,  // [C]
                                                   const Tensor& grad_output,                 // as x
                                                   const Tensor& x,                           // [N, C, ...]
                                                   const std::optional<Tensor>& b,            // [C]
                                                   int64_t act, double alpha, double gain, double clamp,
                                                   const std::vector<bool>& output_mask) {
  Operands operands = checked(x, b, {{alpha, gain, clamp}, act});
  check_like(kOp, "grad_output", grad_output, "x", x);
  if (grad_grad_x) check_like(kOp, "grad_grad_x", *grad_grad_x, "x", x);
  check_of_channels("grad_grad_b", grad_grad_b, x);
  std::array<bool, 3> wanted = as_output_mask<3>(kOp, output_mask);
  wanted[2] = wanted[2] && b;
  const Tensor grad_grad_output = empty_gradient(wanted[0], x), grad_x = empty_gradient(wanted[1], x);
  const Tensor grad_b = empty_of_channels(wanted[2], x);
  if (x.numel() == 0) {
    fill_zero(grad_b);
  } else if (wanted[0] || wanted[1] || wanted[2]) {
    if (grad_grad_x) operands.g = ChannelTensor(*grad_grad_x);
    operands.w = grad_grad_b;
    if (wanted[0]) operands.first = ChannelTensor(grad_grad_output);
    const bool is_second = wanted[1] || wanted[2];
    if (is_second) operands.grad_output = ChannelTensor(grad_output);
    if (wanted[1]) operands.second = ChannelTensor(grad_x);
    if (wanted[2]) operands.sums = grad_b;
    run<Device>(is_second ? Pass::second : Pass::pull, operands);
  }
  return {grad_grad_output, grad_x, grad_b};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::bias_act
