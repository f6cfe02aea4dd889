// What the host entries of all devices share: the numbers of a call, its checks, and the results.
#pragma once

#include <algorithm>
#include <array>

#include "abi/dtype.h"
#include "abi/images.h"
#include "abi/output_mask.h"
#include "kinds/formula.h"
#include "math/stored.h"
#include "paste_math.h"

namespace handgrad::paste {

inline constexpr const char* kOp = "paste";
// The most pixels of an image or an output along an axis.
inline constexpr int64_t kMost = int64_t{1} << 24;
inline constexpr const char* kNames[kSources] = {"image", "second", "third", "fourth"};

using Sources = std::array<const Tensor*, kSources>;  // [N, C, H, W] each, null where there is none

// The arguments of an op, as its schema has them.
struct Arguments {
  const Tensor& image;                                  // [N, C, H, W]
  const std::optional<Tensor>&second, &third, &fourth;  // [N, C, H, W]
  const std::optional<Tensor>& opacity;                 // [N, K]
  const std::optional<Tensor>& rectangles;              // [N, R, 8]
  const std::vector<int64_t>& shared_rectangles;
  const std::vector<double>& shared_opacity;
  int64_t height, width;
  const std::vector<double>& fill;
  int64_t group;

  Sources sources() const {
    return {&image, second ? &*second : nullptr, third ? &*third : nullptr, fourth ? &*fourth : nullptr};
  }
};

// ---- checks ---------------------------------------------------------------------------------------------------------

inline void check_sources(const Arguments& arguments) {
  const Tensor& image = arguments.image;
  check_image(kOp, image);
  const Sources sources = arguments.sources();
  for (int k = 0; k < kSources; ++k) {
    if (!sources[k]) continue;
    const Tensor& source = *sources[k];
    check_rank(kOp, kNames[k], source, 4, "(batch, channels, height, width)");
    check_dtype_and_device(kOp, kNames[k], source, "image", image);
    HANDGRAD_CHECK(source.sizes()[0] == image.sizes()[0] && source.sizes()[1] == image.sizes()[1], kOp, ": ", kNames[k],
                   " must have the batch and the channels of image, ", image.sizes()[0], " and ", image.sizes()[1],
                   "; got ", shape_text(source));
    HANDGRAD_CHECK(source.sizes()[2] <= kMost && source.sizes()[3] <= kMost, kOp, ": ", kNames[k],
                   " must have at most 2^24 rows and columns; got ", shape_text(source));
  }
}

// How many rectangles an image has.
inline int64_t check_rectangles(const Arguments& arguments) {
  const Tensor& image = arguments.image;
  int64_t count = static_cast<int64_t>(arguments.shared_rectangles.size()) / kNumbers;
  if (const std::optional<Tensor>& rectangles = arguments.rectangles) {
    HANDGRAD_CHECK(rectangles->scalar_type() == ScalarType::Long, kOp, ": rectangles must be int64; got ",
                   dtype_text(rectangles->scalar_type()));
    check_device(kOp, "rectangles", *rectangles, "image", image);
    check_rank(kOp, "rectangles", *rectangles, 3, "(images, R, 8)");
    count = rectangles->sizes()[1];
    check_shape(kOp, "rectangles", *rectangles, {image.sizes()[0], count, kNumbers}, "(images, R, 8)");
  } else {
    HANDGRAD_CHECK(arguments.shared_rectangles.size() % kNumbers == 0, kOp,
                   ": rectangles must have 8 numbers each; got ", arguments.shared_rectangles.size());
  }
  HANDGRAD_CHECK(count <= kMostRectangles, kOp, ": rectangles must be at most ", kMostRectangles, " an image; got ",
                 count);
  return count;
}

// How many of them are blended.
inline int64_t check_opacity(const Arguments& arguments, int64_t rectangles) {
  int64_t count = static_cast<int64_t>(arguments.shared_opacity.size());
  if (const std::optional<Tensor>& opacity = arguments.opacity) {
    HANDGRAD_CHECK(opacity->scalar_type() == ScalarType::Double, kOp, ": opacity must be float64; got ",
                   dtype_text(opacity->scalar_type()));
    check_device(kOp, "opacity", *opacity, "image", arguments.image);
    check_rank(kOp, "opacity", *opacity, 2, "(images, K)");
    count = opacity->sizes()[1];
    check_shape(kOp, "opacity", *opacity, {arguments.image.sizes()[0], count}, "(images, K)");
  }
  HANDGRAD_CHECK(count <= rectangles, kOp, ": opacity must have a number for each of the uppermost rectangles, of ",
                 rectangles, "; got ", count);
  return count;
}

inline Frame check_arguments(const Arguments& arguments) {
  check_sources(arguments);
  const Tensor& image = arguments.image;
  HANDGRAD_CHECK(arguments.height > 0 && arguments.width > 0 && arguments.height <= kMost && arguments.width <= kMost,
                 kOp, ": size must be at least 1 and at most 2^24; got ", arguments.height, " x ", arguments.width);
  check_fill(kOp, image, arguments.fill);
  HANDGRAD_CHECK(arguments.group >= 0, kOp, ": group must be at least 0; got ", arguments.group);
  const int64_t rectangles = check_rectangles(arguments), blended = check_opacity(arguments, rectangles);
  const int64_t batch = image.sizes()[0];
  Frame frame{batch,
              image.sizes()[1],
              arguments.height,
              arguments.width,
              arguments.group > 0 ? arguments.group : std::max<int64_t>(batch, 1),
              static_cast<int32_t>(rectangles),
              static_cast<int32_t>(blended),
              {},
              {}};
  const Sources sources = arguments.sources();
  for (int k = 0; k < kSources; ++k) {
    frame.heights[k] = sources[k] ? sources[k]->sizes()[2] : 0;
    frame.widths[k] = sources[k] ? sources[k]->sizes()[3] : 0;
  }
  return frame;
}

inline Tensor empty_output(const Frame& frame, const Tensor& image) {
  const int64_t sizes[4] = {frame.batch, frame.channels, frame.out_height, frame.out_width};
  return empty_image(Sizes(sizes, 4), image.scalar_type(), 0, image);
}

// ---- what devices are given -----------------------------------------------------------------------------------------

// The rectangles and opacities of a call.
struct Tables {
  RectangleTable rectangles;
  OpacityTable opacities;

  explicit Tables(const Arguments& arguments, const std::optional<Tensor>& directions = std::nullopt)  // [N, K]
      : rectangles{view<int64_t, 3>(arguments.rectangles), {}},
        opacities{view<double, 2>(arguments.opacity), view<double, 2>(directions), {}} {
    if (!arguments.rectangles)
      std::copy(arguments.shared_rectangles.begin(), arguments.shared_rectangles.end(), rectangles.shared);
    if (!arguments.opacity)
      std::copy(arguments.shared_opacity.begin(), arguments.shared_opacity.end(), opacities.shared);
  }
};

// The fill of each channel, as the type of the images holds it.
inline std::vector<double> fills_of(const Arguments& arguments, const Frame& frame) {
  std::vector<double> fills = per_channel(arguments.fill, frame.channels);
  fills.resize(static_cast<size_t>(frame.channels));
  if (arguments.image.scalar_type() == ScalarType::Byte) {
    for (double& fill : fills) fill = static_cast<double>(static_cast<uint8_t>(fill));
  }
  return fills;
}

// The results of a double backward, of which a backward has all but the first; and what they are made of.
struct Derivative {
  const Tensor& grad_output;  // [N, C, height, width]
  Sources sources, directions;
  bool wants_output, wants_opacity;
  std::array<bool, kSources> wants;
  Tensor grad_grad_output;                           // [N, C, height, width]
  std::tuple<Tensor, Tensor, Tensor, Tensor> grads;  // [N, C, H, W] each
  Tensor grad_opacity;                               // [N, K]

  Derivative(const Frame& frame, const Arguments& arguments, const Tensor& grad_output, const Sources& directions,
             const std::array<bool, 6>& wanted)
      : grad_output(grad_output),
        sources(arguments.sources()),
        directions(directions),
        wants_output(wanted[0]),
        wants_opacity(wanted[5] && arguments.opacity),
        wants{wanted[1], wanted[2] && sources[1], wanted[3] && sources[2], wanted[4] && sources[3]},
        grad_grad_output(wants_output ? empty_output(frame, arguments.image) : empty_placeholder(arguments.image)),
        grads(gradient(0), gradient(1), gradient(2), gradient(3)),
        grad_opacity(opacity_gradient(arguments)) {
    check_floating(kOp, "image", arguments.image);
    check_dtype_and_device(kOp, "grad_output", grad_output, "image", arguments.image);
    check_shape(kOp, "grad_output", grad_output, {frame.batch, frame.channels, frame.out_height, frame.out_width},
                "(batch, channels, *size)");
    for (int k = 0; k < kSources; ++k) {
      if (directions[k]) check_like(kOp, "a direction", *directions[k], kNames[k], *sources[k]);
    }
  }

  // Of a source that is asked for.
  const Tensor& grad(int k) const {
    return *std::array<const Tensor*, kSources>{&std::get<0>(grads), &std::get<1>(grads), &std::get<2>(grads),
                                                &std::get<3>(grads)}[static_cast<size_t>(k)];
  }
  // Whether all results are without elements, or sums of none: no pixel is read then.
  bool is_done(const Frame& frame) const {
    if (frame.batch * frame.channels > 0) return false;
    if (wants_opacity) fill_zero(grad_opacity);
    return true;
  }

 private:
  Tensor gradient(int k) const {
    return wants[static_cast<size_t>(k)] ? empty_gradient(true, *sources[k])
                                         : empty_placeholder(sources[k] ? *sources[k] : *sources[0]);
  }
  Tensor opacity_gradient(const Arguments& arguments) const {
    const Tensor& like = arguments.opacity ? *arguments.opacity : arguments.image;
    return wants_opacity ? empty_contiguous(like.sizes(), like) : empty_placeholder(like);
  }
};

}  // namespace handgrad::paste
