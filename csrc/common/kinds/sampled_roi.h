// A pooling of boxes that samples an image between its pixels, with a gradient with respect to the boxes on request:
// all but where the sampling points are, and the kernels.
//
// An op brings its name, its numbers beyond the sizes, and a geometry made of both, a RoiGeometry with what the op
// adds:
//
//   struct MyPoolOp {
//     static constexpr const char* name = "my_pool";
//     using Numbers = std::tuple<int64_t, bool>;  // sampling_ratio, aligned: as in the schema
//     static Geometry checked(const Tensor& input, const Tensor& boxes, int64_t pooled_h, int64_t pooled_w,
//                             double spatial_scale, int64_t sampling_ratio, bool aligned);
//   };
//
// and what kinds/sampled_roi_cpu.h and kinds/sampled_roi.cuh ask for.
#pragma once

#include <tuple>

#include "abi/registration.h"
#include "kinds/formula.h"
#include "kinds/roi.h"

namespace handgrad::sampled_roi {

// The tensors of a backward; of a double backward, with its directions.
struct Differentiated {
  const Tensor& grad_output;  // [K, C, pooled_h, pooled_w]
  const Tensor& input;        // [N, C, H, W]
  const Tensor& boxes;        // [K, columns]
  // grad_grad_input and grad_grad_boxes.
  std::optional<Tensor> v_input, v_boxes;
};

template <class Op, class Device, class OpNumbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  static Tensor forward(const Tensor& input,  // [N, C, H, W]
                        const Tensor& boxes,  // [K, columns]
                        int64_t pooled_h, int64_t pooled_w, double spatial_scale, Number... numbers) {
    const auto geometry = Op::checked(input, boxes, pooled_h, pooled_w, spatial_scale, numbers...);
    const Tensor output = empty_output(geometry, input);
    Device::forward(geometry, input, boxes, output);
    return output;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // [K, C, pooled_h, pooled_w]
                                             const Tensor& input,        // [N, C, H, W]
                                             const Tensor& boxes,        // [K, columns]
                                             int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                                             Number... numbers, const std::vector<bool>& output_mask) {
    const auto geometry = Op::checked(input, boxes, pooled_h, pooled_w, spatial_scale, numbers...);
    check_grad_output(geometry, grad_output, input);
    const RoiGradients results(input, boxes, as_output_mask<2>(Op::name, output_mask));
    if (!results.is_done()) Device::backward(geometry, {grad_output, input, boxes, {}, {}}, results);
    return {results.grad_input, results.grad_boxes};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,
                                                            const std::optional<Tensor>& grad_grad_boxes,
                                                            const Tensor& grad_output,  // [K, C, pooled_h, pooled_w]
                                                            const Tensor& input,        // [N, C, H, W]
                                                            const Tensor& boxes,        // [K, columns]
                                                            int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                                                            Number... numbers, const std::vector<bool>& output_mask) {
    const auto geometry = Op::checked(input, boxes, pooled_h, pooled_w, spatial_scale, numbers...);
    check_grad_output(geometry, grad_output, input);
    const RoiSecondGradients results(geometry, grad_grad_input, grad_grad_boxes, input, boxes,
                                     as_output_mask<3>(Op::name, output_mask));
    if (!results.is_done()) {
      Device::double_backward(geometry, {grad_output, input, boxes, grad_grad_input, grad_grad_boxes}, results);
    }
    return {results.grad_grad_output, results.grad_input, results.grad_boxes};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::sampled_roi
