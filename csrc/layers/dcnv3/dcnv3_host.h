// The host entries, for all devices: checks of the tensors, and the passes of the kind.
#pragma once

#include "dcnv3_math.h"
#include "kinds/deformed_groups.h"

namespace handgrad::dcnv3 {

inline constexpr deformed_groups::Names kNames{"dcnv3", "offset"};

inline deformed_groups::DeformedCall check_arguments(const Tensor& input,   // [N, H, W, groups * channels]
                                                     const Tensor& offset,  // [N, out_h, out_w, groups * points * 2]
                                                     const Tensor& mask,    // [N, out_h, out_w, groups * points]
                                                     const deformed_groups::Window& window) {
  const DeformedGeometry geometry = deformed_groups::check_input(kNames, input, window);
  sampled_groups::check_computed(kNames.op, "offset", offset, "input", input);
  sampled_groups::check_computed(kNames.op, "mask", mask, "input", input);
  check_shape(kNames.op, "offset", offset, {geometry.batch, geometry.out_h, geometry.out_w, offset_channels(geometry)},
              "(batch, out_h, out_w, group * points * 2)");
  check_shape(kNames.op, "mask", mask, {geometry.batch, geometry.out_h, geometry.out_w, mask_channels(geometry)},
              "(batch, out_h, out_w, group * points)");
  return {kNames, geometry, input, offset, mask};
}

template <class Device, class OfNumbers = deformed_groups::Numbers>
struct Entries;

template <class Device, class... Number>
struct Entries<Device, std::tuple<Number...>> {
  static Tensor forward(const Tensor& input, const Tensor& offset, const Tensor& mask, Number... numbers) {
    return deformed_groups::forward<Device>(check_arguments(input, offset, mask, {numbers...}));
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output,  // [N, out_h, out_w, groups * channels]
                                                     const Tensor& input, const Tensor& offset, const Tensor& mask,
                                                     Number... numbers, const std::vector<bool>& output_mask) {
    const auto call = check_arguments(input, offset, mask, {numbers...});
    const auto wanted = as_output_mask<3>(kNames.op, output_mask);
    const auto results = deformed_groups::backward<Device>(call, grad_output, {false, wanted[0], wanted[1], wanted[2]});
    return {results.value, results.coordinates, results.factors};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
      const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_offset,
      const std::optional<Tensor>& grad_grad_mask,
      const Tensor& grad_output,  // [N, out_h, out_w, groups * channels]
      const Tensor& input, const Tensor& offset, const Tensor& mask, Number... numbers,
      const std::vector<bool>& output_mask) {
    const auto call = check_arguments(input, offset, mask, {numbers...});
    if (grad_grad_input) check_like(kNames.op, "grad_grad_input", *grad_grad_input, "input", input);
    if (grad_grad_offset) check_like(kNames.op, "grad_grad_offset", *grad_grad_offset, "offset", offset);
    if (grad_grad_mask) check_like(kNames.op, "grad_grad_mask", *grad_grad_mask, "mask", mask);
    const auto results =
        deformed_groups::double_backward<Device>(call, grad_grad_input, grad_grad_offset, grad_grad_mask, grad_output,
                                                 as_output_mask<4>(kNames.op, output_mask));
    return {results.output, results.value, results.coordinates, results.factors};
  }
};

template <class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, kNames.op);
}

}  // namespace handgrad::dcnv3
