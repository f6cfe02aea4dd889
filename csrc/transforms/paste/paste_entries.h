// The host entries of both devices.
#pragma once

#include "paste_host.h"

namespace handgrad::paste {

using MaybeTensor = std::optional<Tensor>;
using Grads = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using SecondGrads = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// A device has copy(frame, tables, fills, sources, output), of opaque rectangles; blend<T>(the same); and for both
// derivatives gradients<C, N>(frame, tables, fills, call), N being C, or a Dual of it for what is differentiated once
// more.
template <class Device>
Tensor value(const Tensor& image,                                                             // [N, C, H, W]
             const MaybeTensor& second, const MaybeTensor& third, const MaybeTensor& fourth,  // [N, C, H, W]
             const MaybeTensor& opacity,                                                      // [N, K]
             const MaybeTensor& rectangles,                                                   // [N, R, 8]
             const std::vector<int64_t>& shared_rectangles, const std::vector<double>& shared_opacity, int64_t height,
             int64_t width, const std::vector<double>& fill, int64_t group) {
  const Arguments arguments{image,          second, third, fourth, opacity, rectangles, shared_rectangles,
                            shared_opacity, height, width, fill,   group};
  const Frame frame = check_arguments(arguments);
  const Tensor output = empty_output(frame, image);
  if (output.numel() == 0) return output;
  const Tables tables(arguments);
  const std::vector<double> fills = fills_of(arguments, frame);
  if (frame.blended == 0) {
    Device::copy(frame, tables, fills, arguments.sources(), output);
  } else if (image.scalar_type() == ScalarType::Byte) {
    Device::template blend<uint8_t>(frame, tables, fills, arguments.sources(), output);
  } else {
    dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
      Device::template blend<typename decltype(tag)::type>(frame, tables, fills, arguments.sources(), output);
    });
  }
  return output;
}

template <class Device>
Grads backward(const Tensor& grad_output,                                                       // [N, C, height, width]
               const Tensor& image,                                                             // [N, C, H, W]
               const MaybeTensor& second, const MaybeTensor& third, const MaybeTensor& fourth,  // [N, C, H, W]
               const MaybeTensor& opacity,                                                      // [N, K]
               const MaybeTensor& rectangles,                                                   // [N, R, 8]
               const std::vector<int64_t>& shared_rectangles, const std::vector<double>& shared_opacity, int64_t height,
               int64_t width, const std::vector<double>& fill, int64_t group, const std::vector<bool>& output_mask) {
  const Arguments arguments{image,          second, third, fourth, opacity, rectangles, shared_rectangles,
                            shared_opacity, height, width, fill,   group};
  const Frame frame = check_arguments(arguments);
  const std::array<bool, 5> mask = as_output_mask<5>(kOp, output_mask);
  const Derivative call(frame, arguments, grad_output, {}, {false, mask[0], mask[1], mask[2], mask[3], mask[4]});
  if (!call.is_done(frame)) {
    const Tables tables(arguments);
    dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      Device::template gradients<C, C>(frame, tables, fills_of(arguments, frame), call);
    });
  }
  return std::tuple_cat(call.grads, std::tuple(call.grad_opacity));
}

template <class Device>
SecondGrads double_backward(const MaybeTensor& grad_grad_image, const MaybeTensor& grad_grad_second,  // [N, C, H, W]
                            const MaybeTensor& grad_grad_third, const MaybeTensor& grad_grad_fourth,  // [N, C, H, W]
                            const MaybeTensor& grad_grad_opacity,                                     // [N, K]
                            const Tensor& grad_output,  // [N, C, height, width]
                            const Tensor& image,        // [N, C, H, W]
                            const MaybeTensor& second, const MaybeTensor& third,
                            const MaybeTensor& fourth,      // [N, C, H, W]
                            const MaybeTensor& opacity,     // [N, K]
                            const MaybeTensor& rectangles,  // [N, R, 8]
                            const std::vector<int64_t>& shared_rectangles, const std::vector<double>& shared_opacity,
                            int64_t height, int64_t width, const std::vector<double>& fill, int64_t group,
                            const std::vector<bool>& output_mask) {
  const Arguments arguments{image,          second, third, fourth, opacity, rectangles, shared_rectangles,
                            shared_opacity, height, width, fill,   group};
  const Frame frame = check_arguments(arguments);
  const auto direction = [&](const MaybeTensor& of, bool there) { return of && there ? &*of : nullptr; };
  const Sources directions{direction(grad_grad_image, true), direction(grad_grad_second, second.has_value()),
                           direction(grad_grad_third, third.has_value()),
                           direction(grad_grad_fourth, fourth.has_value())};
  if (grad_grad_opacity && opacity) check_like(kOp, "grad_grad_opacity", *grad_grad_opacity, "opacity", *opacity);
  const Derivative call(frame, arguments, grad_output, directions, as_output_mask<6>(kOp, output_mask));
  if (!call.is_done(frame)) {
    const Tables tables(arguments, opacity ? grad_grad_opacity : std::nullopt);
    dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      Device::template gradients<C, Dual<C>>(frame, tables, fills_of(arguments, frame), call);
    });
  }
  return std::tuple_cat(std::tuple(call.grad_grad_output), call.grads, std::tuple(call.grad_opacity));
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::paste
