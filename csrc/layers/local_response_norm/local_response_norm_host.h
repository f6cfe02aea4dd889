// What the host entries of all devices need: the checks, the choice of the formula, and how an input lies in memory.
#pragma once

#include <optional>

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/output_mask.h"
#include "local_response_norm_math.h"

namespace handgrad::local_response_norm {

inline constexpr const char* kOp = "local_response_norm";

inline void check_arguments(const Tensor& input, int64_t size) {
  check_floating(kOp, "input", input);
  HANDGRAD_CHECK(input.dim() >= 3 && input.dim() <= 5, kOp,
                 ": input must have 3 to 5 dimensions (batch, channels, positions…); got ", shape_text(input));
  HANDGRAD_CHECK(size >= 1, kOp, ": size must be at least 1; got ", size);
}

inline void check_backward(const Tensor& grad_output, const Tensor& input, int64_t size) {
  check_arguments(input, size);
  check_like(kOp, "grad_output", grad_output, "input", input);
}

inline void check_double_backward(const std::optional<Tensor>& grad_grad_input, const Tensor& grad_output,
                                  const Tensor& input, int64_t size) {
  check_backward(grad_output, input, size);
  if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
}

// Calls body(tag, norm) with the element type of `input` and the formula for this beta.
template <class Body>
void with_formula(const Tensor& input, int64_t size, double alpha, double beta, double k, const Body& body) {
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    dispatch_bool(beta == 0.75, [&](auto beta_is_three_quarters) {
      using C = Compute<typename decltype(tag)::type>;
      body(tag, LocalResponseNorm<C, decltype(beta_is_three_quarters)::value>(size, alpha, beta, k));
    });
  });
}

// A tensor of shape (batch, channels, positions), the positions of one channel a fixed stride apart: what NCHW,
// channels_last, slices of them and expanded scalars all are.
struct Layout {
  int64_t batch_stride, channel_stride, position_stride;
};

inline std::optional<Layout> as_layout(const Tensor& tensor) {
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  int64_t position_stride = 0, next = 0;
  bool first = true;
  for (size_t d = sizes.size(); d-- > 2;) {
    if (sizes[d] == 1) continue;
    if (first) {
      position_stride = strides[d];
      first = false;
    } else if (strides[d] != next) {
      return std::nullopt;
    }
    next = strides[d] * sizes[d];
  }
  return Layout{strides[0], strides[1], position_stride};
}

// A tensor that is read slab by slab; one that has no Layout is copied into one that has.
template <class T>
struct Operand {
  Tensor keep_alive;
  Layout layout;
  const T* data;

  explicit Operand(const Tensor& tensor) : keep_alive(tensor) {
    if (!as_layout(tensor)) keep_alive = torch::stable::contiguous(tensor);
    layout = *as_layout(keep_alive);
    data = keep_alive.const_data_ptr<T>();
  }
};

// channels_last of any rank: dense, channels innermost.
inline bool is_channels_last(const Tensor& tensor) {
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  int64_t step = sizes[1];
  if (sizes[1] != 1 && strides[1] != 1) return false;
  for (size_t d = sizes.size(); d-- > 0;) {
    if (d == 1) continue;
    if (sizes[d] != 1 && strides[d] != step) return false;
    step *= sizes[d];
  }
  return true;
}

// channels_last in, channels_last out; everything else comes out contiguous.
inline Tensor empty_output(const Tensor& input) {
  const std::vector<int64_t> contiguous = contiguous_strides(input.sizes());
  const bool keep = input.is_contiguous() || is_channels_last(input);
  return empty_strided(input.sizes(), keep ? input.strides() : Sizes(contiguous.data(), contiguous.size()), input);
}

// The results of the double backward; for a direction of None they are zeros already.
struct DoubleBackward {
  bool wants_grad_grad_output, wants_grad_input, is_zero;
  Tensor grad_grad_output, grad_input;

  DoubleBackward(const std::optional<Tensor>& grad_grad_input, const Tensor& input, const std::array<bool, 2>& wanted)
      : wants_grad_grad_output(wanted[0]),
        wants_grad_input(wanted[1]),
        is_zero(!grad_grad_input),
        grad_grad_output(wanted[0] ? empty_output(input) : empty_placeholder(input)),
        grad_input(wanted[1] ? empty_output(input) : empty_placeholder(input)) {
    if (!is_zero) return;
    fill_zero(grad_grad_output);
    fill_zero(grad_input);
  }

  bool nothing_to_do() const { return is_zero || (!wants_grad_grad_output && !wants_grad_input); }
};

}  // namespace handgrad::local_response_norm
