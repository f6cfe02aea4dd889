// What the host entries of all devices need: the checks, the results, the choice of the formula.
#pragma once

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
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

// The head of the double backward on every device: the checks, then the results, to be filled where they are wanted.
struct DoubleBackward {
  bool wants_grad_grad_output, wants_grad_input;
  Tensor grad_grad_output, grad_input;  // each like input, [N, C, *]

  DoubleBackward(const std::optional<Tensor>& grad_grad_input, const Tensor& grad_output, const Tensor& input,
                 int64_t size, const std::vector<bool>& output_mask)
      : DoubleBackward(input, checked(grad_grad_input, grad_output, input, size, output_mask)) {
    if (grad_grad_input) return;
    // Along no direction all is zero.
    fill_zero(grad_grad_output);
    fill_zero(grad_input);
    wants_grad_grad_output = wants_grad_input = false;
  }

  bool is_done() const { return !wants_grad_grad_output && !wants_grad_input; }

 private:
  DoubleBackward(const Tensor& input, const std::array<bool, 2>& wanted)
      : wants_grad_grad_output(wanted[0]),
        wants_grad_input(wanted[1]),
        grad_grad_output(empty_gradient(wanted[0], input)),
        grad_input(empty_gradient(wanted[1], input)) {}

  static std::array<bool, 2> checked(const std::optional<Tensor>& grad_grad_input, const Tensor& grad_output,
                                     const Tensor& input, int64_t size, const std::vector<bool>& output_mask) {
    check_backward(grad_output, input, size);
    if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
    return as_output_mask<2>(kOp, output_mask);
  }
};

// torch's window: of channel c it is [c - before, c + after]. What lies beyond all channels adds nothing.
struct Window {
  int64_t before, after;

  Window(int64_t size, int64_t channels)
      : before(std::min(size / 2, channels)), after(std::min((size - 1) / 2, channels)) {}

  int64_t padding() const { return std::max(before, after); }
};

// Calls body(norm) with the formula for this beta, in C.
template <class C, class Body>
void with_formula(int64_t size, double alpha, double beta, double k, const Body& body) {
  dispatch_bool(beta == 0.75, [&](auto beta_is_three_quarters) {
    body(LocalResponseNorm<C, decltype(beta_is_three_quarters)::value>(size, alpha, beta, k));
  });
}

}  // namespace handgrad::local_response_norm
