// A pooling of the pixels of boxes in which every bin has channels of its own (position-sensitive): all but what a bin
// weighs pixels by. Channel (c, p, q) of the input, c * pooled_h * pooled_w + p * pooled_w + q, is bin (p, q) of
// channel c of the output, so that it does not look at other channels: a product of the bin's rows and columns, as a
// BoxAxis or WholeAxis gives them.
//
// An op brings its name, its numbers beyond the sizes, and axes:
//
//   struct MyPoolOp {
//     static constexpr const char* name = "my_pool";
//     using Numbers = std::tuple<int64_t>;  // sampling_ratio
//     template <class C>
//     static HANDGRAD_MATH BoxAxis<C> axis(C first, C second, const PositionGeometry& geometry, int32_t pooled_size,
//                                          int32_t size);
//   };
#pragma once

#include <tuple>

#include "abi/registration.h"
#include "kinds/formula.h"
#include "kinds/roi.h"

namespace handgrad {

struct PositionGeometry : RoiGeometry {
  // Sampling points of a bin along an axis, where the op has some; 0: as many as the bin has pixels.
  int32_t sampling_ratio = 0;
};

namespace position_roi {

// The tensors of one pass: the output is made of the input, or the gradient of the input of the output's.
struct PooledTensors {
  Tensor input;                // [N, C, H, W]; in the double backward its direction
  Tensor boxes;                // [K, 5]
  std::optional<Tensor> from;  // [K, C / bins, pooled_h, pooled_w], the gradient of the output
  Tensor to;                   // the output, or the gradient of the input
};

template <class... Number>
PositionGeometry check_arguments(const char* op, const Tensor& input, const Tensor& boxes, int64_t pooled_h,
                                 int64_t pooled_w, double spatial_scale, Number... sampling_ratio) {
  PositionGeometry geometry{
      check_rois(op, input, boxes, 5, "batch index, x1, y1, x2, y2", pooled_h, pooled_w, spatial_scale)};
  ((geometry.sampling_ratio = checked_sampling_ratio(op, sampling_ratio)), ...);
  HANDGRAD_CHECK(geometry.channels % geometry.bins() == 0, op,
                 ": input must have a multiple of output_size's bins as channels, here of ", geometry.bins(), "; got ",
                 shape_text(input));
  geometry.output_channels = static_cast<int32_t>(geometry.channels / geometry.bins());
  return geometry;
}

template <class Op, class Device, class OpNumbers = typename Op::Numbers>
struct Entries;

template <class Op, class Device, class... Number>
struct Entries<Op, Device, std::tuple<Number...>> {
  static Tensor forward(const Tensor& input,  // [N, C, H, W]
                        const Tensor& boxes,  // [K, 5]
                        int64_t pooled_h, int64_t pooled_w, double spatial_scale, Number... numbers) {
    const PositionGeometry geometry =
        check_arguments(Op::name, input, boxes, pooled_h, pooled_w, spatial_scale, numbers...);
    const Tensor output = empty_output(geometry, input);
    Device::template run<Op>(geometry, PooledTensors{input, boxes, std::nullopt, output});
    return output;
  }

  static Tensor backward(const Tensor& grad_output,  // [K, C / bins, pooled_h, pooled_w]
                         const Tensor& input,        // [N, C, H, W]
                         const Tensor& boxes,        // [K, 5]
                         int64_t pooled_h, int64_t pooled_w, double spatial_scale, Number... numbers,
                         const std::vector<bool>& output_mask) {
    const PositionGeometry geometry =
        check_arguments(Op::name, input, boxes, pooled_h, pooled_w, spatial_scale, numbers...);
    check_grad_output(geometry, grad_output, input);
    const bool wanted = as_output_mask<1>(Op::name, output_mask)[0];
    const Tensor grad_input = empty_gradient(wanted, input);
    if (wanted) Device::template run<Op>(geometry, PooledTensors{input, boxes, grad_output, grad_input});
    return grad_input;
  }

  // Linear in the image: the output of its direction.
  static std::tuple<Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input,  // [N, C, H, W]
                                                    const Tensor& grad_output,
                                                    const Tensor& input,  // [N, C, H, W]
                                                    const Tensor& boxes,  // [K, 5]
                                                    int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                                                    Number... numbers, const std::vector<bool>& output_mask) {
    const PositionGeometry geometry =
        check_arguments(Op::name, input, boxes, pooled_h, pooled_w, spatial_scale, numbers...);
    check_grad_output(geometry, grad_output, input);
    const RoiDoubleBackward results(geometry, grad_grad_input, input, output_mask);
    if (results.wants_output) {
      Device::template run<Op>(geometry,
                               PooledTensors{*grad_grad_input, boxes, std::nullopt, results.grad_grad_output});
    }
    return {results.grad_grad_output, results.grad_input};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  using Of = Entries<Op, Device>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace position_roi
}  // namespace handgrad
