// The host entries, for all devices: checks of the tensors, and the passes of the kind.
#pragma once

#include "dcnv4_math.h"
#include "kinds/deformed_groups.h"

namespace handgrad::dcnv4 {

inline constexpr deformed_groups::Names kNames{"dcnv4", "offset_mask"};

inline deformed_groups::DeformedCall check_arguments(const Tensor& input,        // [N, H, W, groups * channels]
                                                     const Tensor& offset_mask,  // [N, out_h, out_w, channels and rest]
                                                     const deformed_groups::Window& window) {
  const DeformedGeometry geometry = deformed_groups::check_input(kNames, input, window);
  sampled_groups::check_computed(kNames.op, "offset_mask", offset_mask, "input", input);
  const int64_t needed = channels(geometry);
  const Sizes sizes = offset_mask.sizes();
  HANDGRAD_CHECK(sizes.size() == 4 && sizes[0] == geometry.batch && sizes[1] == geometry.out_h &&
                     sizes[2] == geometry.out_w && (sizes[3] == needed || sizes[3] == filled_up(needed)),
                 kNames.op, ": offset_mask must have shape (", geometry.batch, ", ", geometry.out_h, ", ",
                 geometry.out_w, ", ", needed, "), (batch, out_h, out_w, group * points * 3), the last filled up to ",
                 filled_up(needed), " or not; got ", shape_text(offset_mask));
  return {kNames, geometry, input, offset_mask, std::nullopt};
}

template <class Device, class OfNumbers = deformed_groups::Numbers>
struct Entries;

template <class Device, class... Number>
struct Entries<Device, std::tuple<Number...>> {
  static Tensor forward(const Tensor& input, const Tensor& offset_mask, Number... numbers) {
    return deformed_groups::forward<Device>(check_arguments(input, offset_mask, {numbers...}));
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // [N, out_h, out_w, groups * channels]
                                             const Tensor& input, const Tensor& offset_mask, Number... numbers,
                                             const std::vector<bool>& output_mask) {
    const auto call = check_arguments(input, offset_mask, {numbers...});
    const auto wanted = as_output_mask<2>(kNames.op, output_mask);
    const auto results = deformed_groups::backward<Device>(call, grad_output, {false, wanted[0], wanted[1], false});
    return {results.value, results.coordinates};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(
      const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_offset_mask,
      const Tensor& grad_output,  // [N, out_h, out_w, groups * channels]
      const Tensor& input, const Tensor& offset_mask, Number... numbers, const std::vector<bool>& output_mask) {
    const auto call = check_arguments(input, offset_mask, {numbers...});
    if (grad_grad_input) check_like(kNames.op, "grad_grad_input", *grad_grad_input, "input", input);
    if (grad_grad_offset_mask) {
      check_like(kNames.op, "grad_grad_offset_mask", *grad_grad_offset_mask, "offset_mask", offset_mask);
    }
    const auto wanted = as_output_mask<3>(kNames.op, output_mask);
    const auto results =
        deformed_groups::double_backward<Device>(call, grad_grad_input, grad_grad_offset_mask, std::nullopt,
                                                 grad_output, {wanted[0], wanted[1], wanted[2], false});
    return {results.output, results.value, results.coordinates};
  }
};

template <class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, kNames.op);
}

}  // namespace handgrad::dcnv4
