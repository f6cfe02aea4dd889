// What the host entries of all devices share: the numbers of a call, its checks, and the results.
#pragma once

#include <array>
#include <utility>

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/images.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "abi/view.h"
#include "resized_crop_math.h"

namespace handgrad::resized_crop {

inline constexpr const char* kOp = "resized_crop";
// The most pixels of an image or an output along an axis: kernels count them in 32 bits, and reach twice as far.
inline constexpr int64_t kMost = int64_t{1} << 24;

// A crop, and whether it is flipped left to right and upside down.
struct Box {
  int32_t top, left, height, width;
  bool horizontal_flip, vertical_flip;
};

// Where the boxes and flips of all images are: in tensors, each of which may be absent, or in six
// numbers.
struct BoxTable {
  View<const int64_t, 2> boxes;                          // [N, 4]
  View<const bool, 1> horizontal_flips, vertical_flips;  // [N]
  int64_t all[6];

  HANDGRAD_MATH int64_t at(int64_t n, int k) const { return boxes ? *boxes.at(n, k) : all[k]; }
  HANDGRAD_MATH Box box(int64_t n) const {
    return {static_cast<int32_t>(at(n, 0)),
            static_cast<int32_t>(at(n, 1)),
            static_cast<int32_t>(at(n, 2)),
            static_cast<int32_t>(at(n, 3)),
            horizontal_flips ? *horizontal_flips.at(n) : all[4] != 0,
            vertical_flips ? *vertical_flips.at(n) : all[5] != 0};
  }
  // Whether a box lies in an image, whatever its numbers are.
  HANDGRAD_MATH bool is_inside(int64_t n, int64_t image_height, int64_t image_width) const {
    const int64_t top = at(n, 0), left = at(n, 1), height = at(n, 2), width = at(n, 3);
    return top >= 0 && left >= 0 && height > 0 && width > 0 && top < image_height && left < image_width &&
           height <= image_height - top && width <= image_width - left;
  }
  // The tables of taps are the same for all images.
  HANDGRAD_MATH bool one_for_all() const { return !boxes && !horizontal_flips && !vertical_flips; }
};

// The numbers of an op, as its schema has them.
struct Arguments {
  const std::optional<Tensor>& boxes;                             // [N, 4]
  const std::optional<Tensor>&horizontal_flips, &vertical_flips;  // [N]
  const std::vector<int64_t>& box;
  int64_t height, width, interpolation;
  bool antialias;
  ScalarType dtype;
  const std::vector<double>&mean, &std;
  int64_t memory_format;
  bool pillow;
  int64_t scaling;
};

struct Geometry {
  int64_t batch, channels, height, width;
  // Of the output.
  int32_t out_height, out_width;
  // What the crop is resized to, and where in that the output is.
  int32_t whole_height, whole_width, window_top, window_left;
  Interpolation interpolation;
  bool antialias;
  // Of uint8: whose integer weights.
  bool pillow;

  HANDGRAD_MATH bool is_whole() const { return out_height == whole_height && out_width == whole_width; }
  HANDGRAD_MATH Axis rows(const Box& box) const {
    return {interpolation, antialias, box.height, whole_height, window_top, out_height};
  }
  HANDGRAD_MATH Axis columns(const Box& box) const {
    return {interpolation, antialias, box.width, whole_width, window_left, out_width};
  }
};

inline void check_flips(const char* name, const std::optional<Tensor>& flips, const Tensor& image) {
  if (!flips) return;
  HANDGRAD_CHECK(flips->scalar_type() == ScalarType::Bool, kOp, ": ", name, " must be bool; got ",
                 dtype_text(flips->scalar_type()));
  check_device(kOp, name, *flips, "image", image);
  check_shape(kOp, name, *flips, {image.sizes()[0]}, "(images,)");
}

inline void check_boxes(const Arguments& arguments, const Geometry& geometry, const Tensor& image) {
  check_flips("horizontal_flip", arguments.horizontal_flips, image);
  check_flips("vertical_flip", arguments.vertical_flips, image);
  if (const std::optional<Tensor>& boxes = arguments.boxes) {
    HANDGRAD_CHECK(boxes->scalar_type() == ScalarType::Long, kOp, ": boxes must be int64; got ",
                   dtype_text(boxes->scalar_type()));
    check_device(kOp, "boxes", *boxes, "image", image);
    check_shape(kOp, "boxes", *boxes, {geometry.batch, 4}, "(images, 4): top, left, height, width");
  } else if (geometry.batch > 0) {
    BoxTable table{};
    std::copy_n(arguments.box.begin(), 6, table.all);
    HANDGRAD_CHECK(table.is_inside(0, geometry.height, geometry.width), kOp,
                   ": top, left, height and width must be a box in the image of ", geometry.height, " x ",
                   geometry.width, " pixels; got ", table.all[0], ", ", table.all[1], ", ", table.all[2], ", ",
                   table.all[3]);
  }
}

inline BoxTable box_table(const Arguments& arguments) {
  BoxTable table{view<int64_t, 2>(arguments.boxes),
                 view<bool, 1>(arguments.horizontal_flips),
                 view<bool, 1>(arguments.vertical_flips),
                 {}};
  std::copy_n(arguments.box.begin(), 6, table.all);
  return table;
}

// The numbers of `box` that are the same for all images: the whole picture, and the window's corner.
inline void check_window(const Arguments& arguments) {
  const std::vector<int64_t>& box = arguments.box;
  HANDGRAD_CHECK(box.size() == 10, kOp,
                 ": box must have 10 numbers (top, left, height, width, horizontal flip, vertical flip, whole height, "
                 "whole width, window top, window left); got ",
                 box.size());
  HANDGRAD_CHECK(box[6] > 0 && box[7] > 0 && box[6] <= kMost && box[7] <= kMost, kOp,
                 ": size must be at least 1 and at most 2^24; got ", box[6], " x ", box[7]);
  HANDGRAD_CHECK(box[8] >= 0 && box[9] >= 0 && arguments.height > 0 && arguments.width > 0 && box[8] < box[6] &&
                     box[9] < box[7] && arguments.height <= box[6] - box[8] && arguments.width <= box[7] - box[9],
                 kOp, ": window must be a box in the output of ", box[6], " x ", box[7], " pixels; got ", box[8], ", ",
                 box[9], ", ", arguments.height, ", ", arguments.width);
}

inline Geometry check_arguments(const Tensor& image,  // [N, C, H, W]
                                const Arguments& arguments) {
  check_image(kOp, image);
  const Sizes sizes = image.sizes();
  HANDGRAD_CHECK(sizes[2] <= kMost && sizes[3] <= kMost, kOp, ": image must have at most 2^24 rows and columns; got ",
                 shape_text(image));
  check_window(arguments);
  HANDGRAD_CHECK(arguments.interpolation >= 0 && arguments.interpolation <= 3, kOp,
                 ": interpolation must be 0 (nearest), 1 (nearest-exact), 2 (bilinear) or 3 (bicubic); got ",
                 arguments.interpolation);
  check_finish(kOp, image,
               {arguments.dtype, arguments.mean, arguments.std, arguments.memory_format, arguments.scaling});
  const Geometry geometry{sizes[0],
                          sizes[1],
                          sizes[2],
                          sizes[3],
                          static_cast<int32_t>(arguments.height),
                          static_cast<int32_t>(arguments.width),
                          static_cast<int32_t>(arguments.box[6]),
                          static_cast<int32_t>(arguments.box[7]),
                          static_cast<int32_t>(arguments.box[8]),
                          static_cast<int32_t>(arguments.box[9]),
                          static_cast<Interpolation>(arguments.interpolation),
                          arguments.antialias,
                          arguments.pillow};
  check_boxes(arguments, geometry, image);
  return geometry;
}

inline Tensor empty_output(const Geometry& geometry, const Arguments& arguments, const Tensor& image) {
  const int64_t sizes[4] = {geometry.batch, geometry.channels, geometry.out_height, geometry.out_width};
  return empty_image(Sizes(sizes, 4), arguments.dtype, arguments.memory_format, image);
}

// What the derivatives share: the image must be one that has any.
inline Geometry check_derivative(const Tensor& image,  // [N, C, H, W]
                                 const Arguments& arguments,
                                 const Tensor& grad_output) {  // [N, C, height, width]
  check_floating(kOp, "image", image);
  const Geometry geometry = check_arguments(image, arguments);
  check_dtype_and_device(kOp, "grad_output", grad_output, "image", image);
  check_shape(kOp, "grad_output", grad_output,
              {geometry.batch, geometry.channels, geometry.out_height, geometry.out_width}, "(batch, channels, *size)");
  return geometry;
}

// The results of the double backward. The op is linear in the image: grad_grad_output is the op of the direction, and
// the image has no part in anything.
struct DoubleBackward {
  bool wants_grad_grad_output;
  Tensor grad_grad_output;  // [N, C, height, width]
  Tensor grad_image;        // [N, C, H, W]

  DoubleBackward(const Geometry& geometry, const Arguments& arguments, const std::optional<Tensor>& grad_grad_image,
                 const Tensor& image, const std::vector<bool>& output_mask)
      : wants_grad_grad_output(as_output_mask<2>(kOp, output_mask)[0]),
        grad_grad_output(wants_grad_grad_output ? empty_output(geometry, arguments, image) : empty_placeholder(image)),
        grad_image(empty_gradient(output_mask[1], image)) {
    if (grad_grad_image) check_like(kOp, "grad_grad_image", *grad_grad_image, "image", image);
    if (output_mask[1]) fill_zero(grad_image);
    if (wants_grad_grad_output && !grad_grad_image) fill_zero(grad_grad_output);
    wants_grad_grad_output = wants_grad_grad_output && grad_grad_image && grad_grad_output.numel() > 0;
  }

  bool is_done() const { return !wants_grad_grad_output; }
};

}  // namespace handgrad::resized_crop
