// What the host entries of all devices share: the numbers of a call, its checks, and where the displacement leads to.
#pragma once

#include "elastic_math.h"
#include "kinds/formula.h"
#include "kinds/image_sample.h"

namespace handgrad::elastic {

inline constexpr const char* kOp = "elastic";

inline ImageFrame check_arguments(const Tensor& image,         // [N, C, H, W]
                                  const Tensor& displacement,  // [N, H, W, 2]
                                  int64_t interpolation, const std::vector<double>& fill) {
  check_image(kOp, image);
  const Sizes sizes = image.sizes();
  const ImageFrame frame = check_sampled(kOp, image, sizes[2], sizes[3], interpolation, fill);
  const ScalarType dtype = image.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  HANDGRAD_CHECK(displacement.scalar_type() == dtype, kOp, ": displacement must be ", dtype_text(dtype), " beside a ",
                 dtype_text(image.scalar_type()), " image; got ", dtype_text(displacement.scalar_type()));
  check_device(kOp, "displacement", displacement, "image", image);
  check_shape(kOp, "displacement", displacement, {frame.batch, frame.height, frame.width, 2},
              "(batch, height, width, 2)");
  return frame;
}

template <class C>
Places<C> places_of(const ImageFrame& frame, const Tensor& displacement,
                    const std::optional<Tensor>& direction = std::nullopt) {
  return {Axis<C>(frame.width), Axis<C>(frame.height), view<C, 4>(displacement), view<C, 4>(direction)};
}

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has output<T>(frame, places, fill, image, output) and, for both derivatives, gradients<T, N>(frame, places,
// fill, image, direction, grad_output, results); N is Compute<T>, or a Dual of it for what is differentiated once more.
template <class Device>
Tensor value(const Tensor& image,         // [N, C, H, W]
             const Tensor& displacement,  // [N, H, W, 2]
             int64_t interpolation, const std::vector<double>& fill) {
  const ImageFrame frame = check_arguments(image, displacement, interpolation, fill);
  const Tensor output = empty_output(frame, image);
  if (output.numel() == 0) return output;
  dispatch_image(kOp, image, [&](auto tag) {
    using T = typename decltype(tag)::type;
    Device::template output<T>(frame, places_of<Compute<T>>(frame, displacement), fill, image, output);
  });
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,   // [N, C, H, W]
                                    const Tensor& image,         // [N, C, H, W]
                                    const Tensor& displacement,  // [N, H, W, 2]
                                    int64_t interpolation, const std::vector<double>& fill,
                                    const std::vector<bool>& output_mask) {
  const ImageFrame frame = check_arguments(image, displacement, interpolation, fill);
  check_grad_output(kOp, frame, image, grad_output);
  const std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  Results results(frame, displacement, image, {false, wanted[0], wanted[1]});
  if (results.is_done(frame)) return {results.grad_image, results.grad_where};
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    Device::template gradients<T, C>(frame, places_of<C>(frame, displacement), fill, image, std::nullopt, grad_output,
                                     results);
  });
  return {results.grad_image, results.grad_where};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_image,         // [N, C, H, W]
                                                   const std::optional<Tensor>& grad_grad_displacement,  // [N, H, W, 2]
                                                   const Tensor& grad_output,                            // [N, C, H, W]
                                                   const Tensor& image,                                  // [N, C, H, W]
                                                   const Tensor& displacement,                           // [N, H, W, 2]
                                                   int64_t interpolation, const std::vector<double>& fill,
                                                   const std::vector<bool>& output_mask) {
  const ImageFrame frame = check_arguments(image, displacement, interpolation, fill);
  check_grad_output(kOp, frame, image, grad_output);
  if (grad_grad_image) check_like(kOp, "grad_grad_image", *grad_grad_image, "image", image);
  if (grad_grad_displacement) {
    check_like(kOp, "grad_grad_displacement", *grad_grad_displacement, "displacement", displacement);
  }
  Results results(frame, displacement, image, as_output_mask<3>(kOp, output_mask));
  if (results.is_done(frame)) return {results.grad_grad_output, results.grad_image, results.grad_where};
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    Device::template gradients<T, Dual<C>>(frame, places_of<C>(frame, displacement, grad_grad_displacement), fill,
                                           image, grad_grad_image, grad_output, results);
  });
  return {results.grad_grad_output, results.grad_image, results.grad_where};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::elastic
