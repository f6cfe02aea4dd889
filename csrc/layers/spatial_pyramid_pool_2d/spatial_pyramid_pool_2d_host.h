// What the host entries of all devices share: the sizes of a call, its checks, and its results.
#pragma once

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "spatial_pyramid_pool_2d_math.h"

namespace handgrad::spatial_pyramid_pool_2d {

inline constexpr const char* kOp = "spatial_pyramid_pool_2d";
// Levels go to kernels by value; the bins of a plane are in a block's shared memory.
inline constexpr int64_t kMostLevels = 16, kMostBins = 8192;

struct Geometry {
  int64_t batch, channels, height, width;
  int64_t level_count, bins;  // bins of all levels
  int64_t levels[kMostLevels];

  int64_t outputs() const { return channels * bins; }
};

inline Geometry check_arguments(const Tensor& input,  // [N, C, H, W]
                                const std::vector<int64_t>& levels) {
  check_floating(kOp, "input", input);
  check_rank(kOp, "input", input, 4, "(batch, channels, height, width)");
  const Sizes sizes = input.sizes();
  HANDGRAD_CHECK(sizes[2] > 0 && sizes[3] > 0, kOp, ": input must have at least one pixel; got ", shape_text(input));
  HANDGRAD_CHECK(sizes[2] <= INT32_MAX / sizes[3], kOp, ": input must have below 2^31 pixels; got ", shape_text(input));
  const int64_t count = static_cast<int64_t>(levels.size());
  HANDGRAD_CHECK(count >= 1 && count <= kMostLevels, kOp, ": levels must have from 1 to ", kMostLevels,
                 " of them; got ", count);
  Geometry geometry{sizes[0], sizes[1], sizes[2], sizes[3], count, 0, {}};
  for (int64_t l = 0; l < count; ++l) {
    const int64_t level = levels[static_cast<size_t>(l)];
    HANDGRAD_CHECK(level >= 1 && level <= kMostBins, kOp, ": levels must be at least 1, and have ", kMostBins,
                   " bins at most; got ", level);
    geometry.levels[l] = level;
    geometry.bins += level * level;
  }
  HANDGRAD_CHECK(geometry.bins <= kMostBins, kOp, ": levels must be at least 1, and have ", kMostBins,
                 " bins at most; got ", geometry.bins, " bins");
  return geometry;
}

inline Tensor empty_output(const Geometry& geometry, const Tensor& input) {
  const int64_t sizes[2] = {geometry.batch, geometry.outputs()};
  return empty_contiguous(Sizes(sizes, 2), input);
}

inline void check_grad_output(const Geometry& geometry, const Tensor& grad_output, const Tensor& input) {
  check_dtype_and_device(kOp, "grad_output", grad_output, "input", input);
  check_shape(kOp, "grad_output", grad_output, {geometry.batch, geometry.outputs()}, "(batch, channels * bins)");
}

// The results of the double backward. The op is linear where pixels keep their order, so that the second derivative
// with respect to the input is zero.
struct DoubleBackward {
  bool wants_grad_output;
  Tensor grad_grad_output, grad_input;

  DoubleBackward(const Geometry& geometry, const std::optional<Tensor>& grad_grad_input, const Tensor& input,
                 const std::array<bool, 2>& wanted)
      : wants_grad_output(wanted[0] && grad_grad_input),
        grad_grad_output(wanted[0] ? empty_output(geometry, input) : empty_placeholder(input)),
        grad_input(empty_gradient(wanted[1], input)) {
    if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", input);
    if (wanted[1]) fill_zero(grad_input);
    if (wanted[0] && !grad_grad_input) fill_zero(grad_grad_output);
  }
};

}  // namespace handgrad::spatial_pyramid_pool_2d
