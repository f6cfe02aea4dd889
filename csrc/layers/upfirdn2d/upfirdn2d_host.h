// What the host entries of all devices share: checks, axes, results, and the entries themselves, of passes that a
// device brings.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "kinds/formula.h"
#include "math/fir_filter.h"
#include "upfirdn2d_math.h"

namespace handgrad::upfirdn2d {

inline constexpr const char* kOp = "upfirdn2d";

// An axis as it is given: 0 is x.
struct AxisNumbers {
  int64_t up, down, before, after;
};

struct Numbers {
  std::array<AxisNumbers, 2> axes;
  bool flip_filter;
  double gain;

  Numbers(const std::vector<int64_t>& up, const std::vector<int64_t>& down, const std::vector<int64_t>& padding,
          bool flip_filter, double gain)
      : flip_filter(flip_filter), gain(gain) {
    HANDGRAD_CHECK(up.size() == 2 && down.size() == 2 && padding.size() == 4, kOp,
                   ": up and down must be two numbers, and padding four; got ", up.size(), ", ", down.size(), " and ",
                   padding.size());
    for (size_t k = 0; k < 2; ++k) {
      axes[k] = {up[k], down[k], padding[2 * k], padding[2 * k + 1]};
      HANDGRAD_CHECK(up[k] >= 1 && down[k] >= 1 && up[k] < kMostFirSamples && down[k] < kMostFirSamples, kOp,
                     ": up and down must be at least 1 and less than 2^30; got ", up[k], " and ", down[k]);
      for (const int64_t side : {padding[2 * k], padding[2 * k + 1]}) {
        HANDGRAD_CHECK(side > -kMostFirSamples && side < kMostFirSamples, kOp,
                       ": padding must be between -2^30 and 2^30; got ", side);
      }
    }
  }
};

inline FirAxis checked_axis(const Tensor& input, const AxisNumbers& numbers, int64_t size, int64_t taps, bool flip,
                            const char* name) {
  HANDGRAD_CHECK(taps >= 1 && taps <= kMostFirTaps, kOp, ": filter must have 1 to ", kMostFirTaps,
                 " taps along each axis; got ", taps);
  HANDGRAD_CHECK(size < kMostFirSamples && size * numbers.up + numbers.before + numbers.after < kMostFirSamples &&
                     size * numbers.up < kMostFirSamples,
                 kOp, ": input must have less than 2^30 ", name, " after up and padding; got ", shape_text(input));
  const int64_t padded = size * numbers.up + numbers.before + numbers.after;
  HANDGRAD_CHECK(padded >= taps, kOp, ": input must have at least as many ", name, " after up and padding as filter, ",
                 taps, "; got ", padded, " of an input of ", shape_text(input));
  return fir_axis(size, (padded - taps) / numbers.down + 1, numbers.up, numbers.down, taps, numbers.before, !flip);
}

// How outputs depend on inputs along rows (of y) and columns (of x).
inline FirPlanes check_arguments(const Tensor& input,   // [N, C, H, W]
                                 const Tensor& filter,  // [fh, fw] or [taps]
                                 const Numbers& numbers) {
  check_floating(kOp, "input", input);
  check_rank(kOp, "input", input, 4, "(batch, channels, height, width)");
  HANDGRAD_CHECK(filter.dim() == 1 || filter.dim() == 2, kOp,
                 ": filter must have 2 dimensions (rows, columns), or one; got ", shape_text(filter));
  const ScalarType computed = input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  HANDGRAD_CHECK(filter.scalar_type() == computed, kOp, ": filter must be ", dtype_text(computed), "; got ",
                 dtype_text(filter.scalar_type()));
  check_device(kOp, "filter", filter, "input", input);
  const Sizes sizes = input.sizes(), taps = filter.sizes();
  return {sizes[0], sizes[1], checked_axis(input, numbers.axes[1], sizes[2], taps[0], numbers.flip_filter, "rows"),
          checked_axis(input, numbers.axes[0], sizes[3], taps[taps.size() - 1], numbers.flip_filter, "columns")};
}

inline FirPlanes check_derivative(const Tensor& grad_output,  // [N, C, H', W']
                                  const Tensor& input, const Tensor& filter, const Numbers& numbers) {
  const FirPlanes planes = check_arguments(input, filter, numbers);
  check_shape(kOp, "grad_output", grad_output, {planes.batch, planes.channels, planes.rows.out, planes.columns.out},
              "of the output");
  check_dtype_and_device(kOp, "grad_output", grad_output, "input", input);
  return planes;
}

// ---- passes ---------------------------------------------------------------------------------------------------------

// target = source, filtered, and `plus` if there is one.
struct FilterPass {
  FirPlanes planes;
  const Tensor *filter, *direction;
  double gain;
  const Tensor *source, *target, *plus;
};

// result = the gradient of sum(grad_output * output) with respect to the filter; of one that is a product of itself, of
// which `other` is one factor. Or that is added to what is there.
struct GradientPass {
  FirPlanes planes;
  const Tensor* filter;
  double gain;
  const Tensor *grad_output, *source, *other, *result;
  bool adds;
};

inline const Tensor* pointer_to(const std::optional<Tensor>& tensor) { return tensor ? &*tensor : nullptr; }

// In the type that `like` is computed in, in its memory order.
inline Tensor empty_computed(const Tensor& like) {
  const int32_t dtype =
      like.scalar_type() == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  return empty_strided(like.sizes(), like.strides(), dtype, like);
}

inline Tensor empty_filter_gradient(bool wanted, const Tensor& filter) {
  return wanted ? empty_contiguous(filter.sizes(), filter) : empty_placeholder(filter);
}

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has run(FilterPass) and run(GradientPass).
template <class Device>
Tensor value(const Tensor& input,   // [N, C, H, W]
             const Tensor& filter,  // [fh, fw] or [taps]
             const std::vector<int64_t>& up, const std::vector<int64_t>& down, const std::vector<int64_t>& padding,
             bool flip_filter, double gain) {
  const FirPlanes planes = check_arguments(input, filter, Numbers(up, down, padding, flip_filter, gain));
  const int64_t sizes[] = {planes.batch, planes.channels, planes.rows.out, planes.columns.out};
  const Tensor output = empty_in_layout_of(input, Sizes(sizes, 4));
  Device::run(FilterPass{planes, &filter, nullptr, gain, &input, &output, nullptr});
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // [N, C, H', W']
                                    const Tensor& input,        // [N, C, H, W]
                                    const Tensor& filter,       // [fh, fw] or [taps]
                                    const std::vector<int64_t>& up, const std::vector<int64_t>& down,
                                    const std::vector<int64_t>& padding, bool flip_filter, double gain,
                                    const std::vector<bool>& output_mask) {
  const FirPlanes planes = check_derivative(grad_output, input, filter, Numbers(up, down, padding, flip_filter, gain));
  const std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  const Tensor grad_input = empty_gradient(wanted[0], input);
  const Tensor grad_filter = empty_filter_gradient(wanted[1], filter);
  if (wanted[0]) {
    Device::run(FilterPass{transposed(planes), &filter, nullptr, gain, &grad_output, &grad_input, nullptr});
  }
  if (wanted[1]) Device::run(GradientPass{planes, &filter, gain, &grad_output, &input, &filter, &grad_filter, false});
  return {grad_input, grad_filter};
}

// The op is linear in each of its tensors by itself (a filter of one axis counts twice), so that its second derivatives
// are the op again, of directions.
template <class Device>
std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,   // [N, C, H, W]
                                                   const std::optional<Tensor>& grad_grad_filter,  // as filter
                                                   const Tensor& grad_output,                      // [N, C, H', W']
                                                   const Tensor& input,                            // [N, C, H, W]
                                                   const Tensor& filter,                           // [fh, fw] or [taps]
                                                   const std::vector<int64_t>& up, const std::vector<int64_t>& down,
                                                   const std::vector<int64_t>& padding, bool flip_filter, double gain,
                                                   const std::vector<bool>& output_mask) {
  const FirPlanes planes = check_derivative(grad_output, input, filter, Numbers(up, down, padding, flip_filter, gain));
  if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
  if (grad_grad_filter) check_like(kOp, "grad_grad_filter", *grad_grad_filter, "filter", filter);
  const std::array<bool, 3> wanted = as_output_mask<3>(kOp, output_mask);
  const Tensor* const of_input = pointer_to(grad_grad_input);
  const Tensor* const of_filter = pointer_to(grad_grad_filter);

  const int64_t sizes[] = {planes.batch, planes.channels, planes.rows.out, planes.columns.out};
  const Tensor grad_grad_output =
      wanted[0] ? empty_in_layout_of(input, Sizes(sizes, 4)) : empty_placeholder(grad_output);
  const Tensor grad_input = empty_gradient(wanted[1], input);
  const Tensor grad_filter = empty_filter_gradient(wanted[2], filter);
  if (wanted[0]) {
    const Tensor* plus = nullptr;
    std::optional<Tensor> first;
    if (of_input) {
      // Half types are rounded once, after both.
      if (of_filter) first = empty_computed(grad_grad_output);
      const Tensor* const target = first ? &*first : &grad_grad_output;
      Device::run(FilterPass{planes, &filter, nullptr, gain, of_input, target, nullptr});
      plus = of_filter ? target : nullptr;
    }
    if (of_filter) Device::run(FilterPass{planes, &filter, of_filter, gain, &input, &grad_grad_output, plus});
    if (!of_input && !of_filter) fill_zero(grad_grad_output);
  }
  if (wanted[1]) {
    if (of_filter) {
      Device::run(FilterPass{transposed(planes), &filter, of_filter, gain, &grad_output, &grad_input, nullptr});
    } else {
      fill_zero(grad_input);
    }
  }
  if (wanted[2]) {
    const bool is_product = filter.dim() == 1;
    if (of_input) {
      Device::run(GradientPass{planes, &filter, gain, &grad_output, of_input, &filter, &grad_filter, false});
    }
    if (of_filter && is_product) {
      Device::run(
          GradientPass{planes, &filter, gain, &grad_output, &input, of_filter, &grad_filter, of_input != nullptr});
    } else if (!of_input) {
      fill_zero(grad_filter);
    }
  }
  return {grad_grad_output, grad_input, grad_filter};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::upfirdn2d
