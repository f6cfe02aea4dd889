// What the host entries of all devices share: checks, axes, results, and the entries themselves, of a pass that a
// device brings.
#pragma once

#include <vector>

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "blur_pool_2d_math.h"
#include "kinds/formula.h"
#include "math/fir.h"

namespace handgrad::blur_pool_2d {

inline constexpr const char* kOp = "blur_pool_2d";
inline constexpr int64_t kMostSamples = int64_t{1} << 30;

struct Numbers {
  const std::vector<double>& taps;
  int64_t stride;
  const std::vector<int64_t>& padding;
  int64_t border;
};

template <class C>
Taps<C> taps_of(const Numbers& numbers) {
  Taps<C> taps{};
  for (size_t t = 0; t < numbers.taps.size(); ++t) taps.values[t] = static_cast<C>(numbers.taps[t]);
  return taps;
}

inline FirAxis checked_axis(const Tensor& input, int64_t size, const Numbers& numbers, const char* name) {
  const int64_t taps = static_cast<int64_t>(numbers.taps.size());
  const int64_t before = numbers.padding[0], after = numbers.padding[1], padded = size + before + after;
  HANDGRAD_CHECK(size < kMostSamples && padded < kMostSamples, kOp, ": input must have less than 2^30 ", name,
                 " with padding; got ", shape_text(input));
  HANDGRAD_CHECK(padded >= taps, kOp, ": input must have at least as many ", name, " with padding as there are taps, ",
                 taps, "; got ", padded, " of an input of ", shape_text(input));
  const FirBorder border = static_cast<FirBorder>(numbers.border);
  const int64_t most = before > after ? before : after;
  HANDGRAD_CHECK(border != FirBorder::kReflect || most < size, kOp, ": input must have more ", name, " than padding, ",
                 most, ", since its border is a mirror; got ", shape_text(input));
  HANDGRAD_CHECK(border != FirBorder::kReplicate || size > 0, kOp, ": input must have ", name,
                 ", since its border repeats them; got ", shape_text(input));
  return fir_axis(size, (padded - taps) / numbers.stride + 1, 1, numbers.stride, taps, before, false, border);
}

inline FirPlanes check_arguments(const Tensor& input,  // [N, C, H, W]
                                 const Numbers& numbers) {
  check_floating(kOp, "input", input);
  check_rank(kOp, "input", input, 4, "(batch, channels, height, width)");
  HANDGRAD_CHECK(!numbers.taps.empty() && static_cast<int64_t>(numbers.taps.size()) <= kMostTaps, kOp,
                 ": taps must be 1 to ", kMostTaps, "; got ", numbers.taps.size());
  HANDGRAD_CHECK(numbers.stride >= 1 && numbers.stride < kMostSamples, kOp,
                 ": stride must be at least 1 and less than 2^30; got ", numbers.stride);
  HANDGRAD_CHECK(numbers.padding.size() == 2, kOp, ": padding must be two numbers; got ", numbers.padding.size());
  for (const int64_t side : numbers.padding) {
    HANDGRAD_CHECK(side >= 0 && side < kMostSamples, kOp, ": padding must be at least 0 and less than 2^30; got ",
                   side);
  }
  HANDGRAD_CHECK(numbers.border >= 0 && numbers.border <= 2, kOp, ": border must be 0, 1 or 2; got ", numbers.border);
  const Sizes sizes = input.sizes();
  return {sizes[0], sizes[1], checked_axis(input, sizes[2], numbers, "rows"),
          checked_axis(input, sizes[3], numbers, "columns")};
}

inline FirPlanes check_derivative(const Tensor& grad_output,  // [N, C, H', W']
                                  const Tensor& input, const Numbers& numbers) {
  const FirPlanes planes = check_arguments(input, numbers);
  check_shape(kOp, "grad_output", grad_output, {planes.batch, planes.channels, planes.rows.out, planes.columns.out},
              "of the output");
  check_dtype_and_device(kOp, "grad_output", grad_output, "input", input);
  return planes;
}

inline Tensor empty_output(const FirPlanes& planes, const Tensor& input) {
  const int64_t sizes[] = {planes.batch, planes.channels, planes.rows.out, planes.columns.out};
  return empty_in_layout_of(input, Sizes(sizes, 4));
}

// A device has run(planes, numbers, source, target).
template <class Device>
Tensor value(const Tensor& input,  // [N, C, H, W]
             const std::vector<double>& taps, int64_t stride, const std::vector<int64_t>& padding, int64_t border) {
  const Numbers numbers{taps, stride, padding, border};
  const FirPlanes planes = check_arguments(input, numbers);
  const Tensor output = empty_output(planes, input);
  Device::run(planes, numbers, input, output);
  return output;
}

template <class Device>
Tensor backward(const Tensor& grad_output,  // [N, C, H', W']
                const Tensor& input,        // [N, C, H, W]
                const std::vector<double>& taps, int64_t stride, const std::vector<int64_t>& padding, int64_t border,
                const std::vector<bool>& output_mask) {
  const Numbers numbers{taps, stride, padding, border};
  const FirPlanes planes = check_derivative(grad_output, input, numbers);
  const bool wanted = as_output_mask<1>(kOp, output_mask)[0];
  const Tensor grad_input = empty_gradient(wanted, input);
  if (wanted) Device::run(transposed(planes), numbers, grad_output, grad_input);
  return grad_input;
}

// The op is linear: its second derivative is itself, and the input has none.
template <class Device>
std::tuple<Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,  // [N, C, H, W]
                                           const Tensor& grad_output,                     // [N, C, H', W']
                                           const Tensor& input,                           // [N, C, H, W]
                                           const std::vector<double>& taps, int64_t stride,
                                           const std::vector<int64_t>& padding, int64_t border,
                                           const std::vector<bool>& output_mask) {
  const Numbers numbers{taps, stride, padding, border};
  const FirPlanes planes = check_derivative(grad_output, input, numbers);
  if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
  const auto [first, second] = as_output_mask<2>(kOp, output_mask);
  const Tensor grad_grad_output = first ? empty_output(planes, input) : empty_placeholder(grad_output);
  const Tensor grad_input = empty_gradient(second, input);
  if (first && grad_grad_input) Device::run(planes, numbers, *grad_grad_input, grad_grad_output);
  if (first && !grad_grad_input) fill_zero(grad_grad_output);
  if (second) fill_zero(grad_input);
  return {grad_grad_output, grad_input};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::blur_pool_2d
