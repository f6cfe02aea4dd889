// What ops have in common that read an image between its pixels, wherever they say: checks, results, and the choice of
// a type, on the host. `where` is the tensor that says so, a matrix or a displacement; it may be None.
#pragma once

#include <algorithm>
#include <array>

#include "abi/dtype.h"
#include "abi/images.h"
#include "abi/output_mask.h"
#include "math/image_sample.h"

namespace handgrad::image_sample {

// The most pixels of an image or an output along an axis: float holds whole numbers up to here, and their halves.
inline constexpr int64_t kMost = int64_t{1} << 22;

// ---- checks ---------------------------------------------------------------------------------------------------------

inline ImageFrame check_sampled(const char* op, const Tensor& image,  // [N, C, H, W]
                                int64_t height, int64_t width, int64_t interpolation, const std::vector<double>& fill) {
  check_image(op, image);
  const Sizes sizes = image.sizes();
  HANDGRAD_CHECK(sizes[2] > 0 && sizes[3] > 0 && sizes[2] <= kMost && sizes[3] <= kMost, op,
                 ": image must have at least 1 and at most 2^22 rows and columns; got ", shape_text(image));
  HANDGRAD_CHECK(height > 0 && width > 0 && height <= kMost && width <= kMost, op,
                 ": size must be at least 1 and at most 2^22; got ", height, " x ", width);
  HANDGRAD_CHECK(interpolation == 0 || interpolation == 1, op,
                 ": interpolation must be 0 (nearest) or 1 (bilinear); got ", interpolation);
  check_fill(op, image, fill);
  return {sizes[0], sizes[1], sizes[2], sizes[3], height, width, interpolation == 1, !fill.empty()};
}

// What the derivatives share: the image must be one that has any.
inline void check_grad_output(const char* op, const ImageFrame& frame, const Tensor& image,
                              const Tensor& grad_output) {  // [N, C, height, width]
  check_floating(op, "image", image);
  check_dtype_and_device(op, "grad_output", grad_output, "image", image);
  check_shape(op, "grad_output", grad_output, {frame.batch, frame.channels, frame.out_height, frame.out_width},
              "(batch, channels, *size)");
}

// ---- results --------------------------------------------------------------------------------------------------------

inline Tensor empty_output(const ImageFrame& frame, const Tensor& image) {
  const int64_t sizes[4] = {frame.batch, frame.channels, frame.out_height, frame.out_width};
  return empty_image(Sizes(sizes, 4), image.scalar_type(), 0, image);
}

// An empty gradient of `where`, or what stands for one that nobody asked for.
inline Tensor gradient_of(bool wanted, const std::optional<Tensor>& where, const Tensor& image) {
  const Tensor& like = where ? *where : image;
  if (!wanted) return empty_placeholder(like);
  return like.dim() == 4 ? empty_in_layout_of(like) : empty_contiguous(like.sizes(), like);
}

// The results of a backward (of all that a double backward has, the last two).
struct Results {
  bool wants_output, wants_image, wants_where;
  Tensor grad_grad_output;  // [N, C, height, width]
  Tensor grad_image;        // [N, C, H, W]
  Tensor grad_where;

  Results(const ImageFrame& frame, const std::optional<Tensor>& where, const Tensor& image, std::array<bool, 3> wanted)
      : wants_output(wanted[0]),
        wants_image(wanted[1]),
        wants_where(wanted[2] && where.has_value()),
        grad_grad_output(wants_output ? empty_output(frame, image) : empty_placeholder(image)),
        grad_image(empty_gradient(wants_image, image)),
        grad_where(gradient_of(wants_where, where, image)) {}

  // Whether nothing is left to be computed: of no image or no channel, everything is zero.
  bool is_done(const ImageFrame& frame) {
    const bool nothing = frame.batch * frame.channels == 0;
    if (!nothing) return !wants_output && !wants_image && !wants_where;
    if (wants_output) fill_zero(grad_grad_output);
    if (wants_image) fill_zero(grad_image);
    if (wants_where) fill_zero(grad_where);
    return true;
  }
};

// ---- types ----------------------------------------------------------------------------------------------------------

// body(tag of T) for the type of an image: levels, or floating-point numbers.
template <class Body>
void dispatch_image(const char* op, const Tensor& image, const Body& body) {
  if (image.scalar_type() == ScalarType::Byte) {
    body(TypeTag<uint8_t>{});
  } else {
    dispatch_floating(op, image.scalar_type(), body);
  }
}

}  // namespace handgrad::image_sample
