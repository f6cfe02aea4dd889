// What the host entries of all devices share: the sizes of a call, its checks, and its results.
#pragma once

#include "abi/channels.h"
#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "abi/tensor.h"
#include "abi/view.h"
#include "grid_sample_math.h"

namespace handgrad::grid_sample {

inline constexpr const char* kOp = "grid_sample";
// Pixels along an axis: float holds whole numbers up to here.
inline constexpr int64_t kMostAlong = int64_t{1} << 24;

// An image of two axes is one of three whose first has one pixel, at which nothing is read between pixels.
struct Geometry {
  int64_t batch, channels;
  int64_t size[3];  // of input: depth, height, width
  int64_t pixels;   // all of them
  int64_t points;   // of the grid, for each image
  int32_t axes;     // 2 or 3: the last of the three
  int32_t mode, padding;
  bool align_corners;

  HANDGRAD_MATH int taps(int axis) const { return axis + axes < 3 ? 1 : axis_taps(mode); }
  // The coordinate of an axis in the grid: x, the last axis, comes first.
  HANDGRAD_MATH int coordinate(int axis) const { return 2 - axis; }
};

// ---- checks ---------------------------------------------------------------------------------------------------------

inline Geometry check_arguments(const Tensor& input,  // [N, C, (D,) H, W]
                                const Tensor& grid,   // [N, (Do,) Ho, Wo, 2 or 3]
                                int64_t mode, int64_t padding_mode, bool align_corners) {
  check_floating(kOp, "input", input);
  const int64_t rank = input.dim();
  HANDGRAD_CHECK(rank == 4 || rank == 5, kOp, ": input must have 4 or 5 dimensions (batch, channels, [depth,] height, ",
                 "width); got ", shape_text(input.sizes()));
  const ScalarType wanted = input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  HANDGRAD_CHECK(grid.scalar_type() == wanted, kOp, ": grid must have the type that input is computed in, ",
                 dtype_text(wanted), "; got ", dtype_text(grid.scalar_type()));
  check_device(kOp, "grid", grid, "input", input);
  const Sizes sizes = input.sizes(), points = grid.sizes();
  HANDGRAD_CHECK(grid.dim() == rank && points[0] == sizes[0] && points[static_cast<size_t>(rank) - 1] == rank - 2, kOp,
                 ": grid must have shape (batch, ", rank == 5 ? "depth, " : "", "height, width, ", rank - 2,
                 ") beside an input of ", shape_text(sizes), "; got ", shape_text(points));
  HANDGRAD_CHECK(mode >= kBilinear && mode <= kBicubic, kOp,
                 ": mode must be 0 (bilinear), 1 (nearest) or 2 (bicubic); got ", mode);
  HANDGRAD_CHECK(mode != kBicubic || rank == 4, kOp,
                 ": mode must be bilinear or nearest for an input of 5 dimensions; ", "got bicubic");
  HANDGRAD_CHECK(padding_mode >= kZeros && padding_mode <= kReflection, kOp,
                 ": padding_mode must be 0 (zeros), 1 (border) or 2 (reflection); got ", padding_mode);
  Geometry geometry{};
  geometry.batch = sizes[0], geometry.channels = sizes[1];
  geometry.axes = static_cast<int32_t>(rank - 2);
  geometry.mode = static_cast<int32_t>(mode), geometry.padding = static_cast<int32_t>(padding_mode);
  geometry.align_corners = align_corners;
  geometry.size[0] = 1;
  geometry.points = 1, geometry.pixels = 1;
  for (int64_t d = 2; d < rank; ++d) {
    const int64_t size = sizes[static_cast<size_t>(d)];
    HANDGRAD_CHECK(size >= 1, kOp, ": input must have at least one pixel; got ", shape_text(sizes));
    HANDGRAD_CHECK(size <= kMostAlong, kOp, ": input must have at most 2^24 pixels along an axis; got ",
                   shape_text(sizes));
    // Compared so that nothing overflows.
    HANDGRAD_CHECK(size <= INT32_MAX / geometry.pixels, kOp,
                   ": input must have fewer than 2^31 pixels in an image; got ", shape_text(sizes));
    geometry.size[static_cast<size_t>(d - rank + 3)] = size;
    geometry.pixels *= size;
    geometry.points *= points[static_cast<size_t>(d) - 1];
  }
  return geometry;
}

inline Tensor empty_output(const Geometry& geometry, const Tensor& input, const Tensor& grid) {
  std::vector<int64_t> sizes{geometry.batch, geometry.channels};
  for (int32_t d = 1; d <= geometry.axes; ++d) sizes.push_back(grid.sizes()[static_cast<size_t>(d)]);
  return empty_in_layout_of(input, Sizes(sizes.data(), sizes.size()));
}

inline void check_grad_output(const Geometry& geometry, const Tensor& grad_output, const Tensor& input,
                              const Tensor& grid) {
  check_dtype_and_device(kOp, "grad_output", grad_output, "input", input);
  bool fits = grad_output.dim() == input.dim();
  for (int64_t d = 0; fits && d < input.dim(); ++d) {
    const auto at = static_cast<size_t>(d);
    fits = grad_output.sizes()[at] == (d == 0 ? geometry.batch : d == 1 ? geometry.channels : grid.sizes()[at - 1]);
  }
  HANDGRAD_CHECK(fits, kOp, ": grad_output must have the shape of the output; got ", shape_text(grad_output.sizes()));
}

// ---- tensors --------------------------------------------------------------------------------------------------------

// A grid, or a direction of one, as points that are a fixed stride apart; one whose points lie otherwise is copied.
struct GridTensor {
  Tensor tensor;
  int64_t strides[3];  // batch, point, coordinate

  explicit GridTensor(const Tensor& any) : tensor(any) {
    std::optional<int64_t> stride = stride_of_points(tensor);
    if (!stride) tensor = torch::stable::contiguous(any), stride = stride_of_points(tensor);
    strides[0] = tensor.strides()[0], strides[1] = *stride;
    strides[2] = tensor.strides()[static_cast<size_t>(tensor.dim()) - 1];
  }

  // [N, points, axes]
  template <class C>
  View<const C, 3> view() const {
    return {tensor.const_data_ptr<C>(), {strides[0], strides[1], strides[2]}};
  }

 private:
  static std::optional<int64_t> stride_of_points(const Tensor& tensor) {
    std::optional<int64_t> stride;
    int64_t next = 0;
    for (size_t d = static_cast<size_t>(tensor.dim()) - 1; d-- > 1;) {
      const int64_t size = tensor.sizes()[d], own = tensor.strides()[d];
      if (size == 1) continue;
      if (!stride) {
        stride = own;
      } else if (own != next) {
        return std::nullopt;
      }
      next = own * size;
    }
    return stride.value_or(0);
  }
};

// Of a result, which is contiguous.
template <class C>
View<C, 3> points_of(bool wanted, const Geometry& geometry, const Tensor& grad_grid) {
  if (!wanted) return {};
  return {grad_grid.mutable_data_ptr<C>(), {geometry.points * geometry.axes, geometry.axes, 1}};
}

// ---- results --------------------------------------------------------------------------------------------------------

// The results of a backward (of all that a double backward has, the last two), to be filled where they are wanted.
struct Results {
  bool wants_output, wants_input, wants_grid;
  Tensor grad_grad_output;
  Tensor grad_input;  // in the layout of input
  Tensor grad_grid;   // contiguous, until it is handed over

  Results(const Geometry& geometry, const Tensor& input, const Tensor& grid, std::array<bool, 3> wanted)
      : wants_output(wanted[0]),
        wants_input(wanted[1]),
        wants_grid(wanted[2]),
        grad_grad_output(wanted[0] ? empty_output(geometry, input, grid) : empty_placeholder(input)),
        grad_input(empty_gradient(wanted[1], input)),
        grad_grid(wanted[2] ? empty_contiguous(grid.sizes(), grid) : empty_placeholder(grid)) {
    // What is zero whatever the numbers are: everything, where there is nothing to sum; and a grid whose points are
    // rounded does not move.
    const bool nothing = geometry.batch * geometry.channels * geometry.points == 0;
    if (nothing) clear(wants_output, grad_grad_output), clear(wants_input, grad_input);
    if (nothing || geometry.mode == kNearest) clear(wants_grid, grad_grid);
  }

  // What depends on directions alone: a None is zero.
  void clear_without(bool input_moves, bool grid_moves) {
    if (!input_moves && !grid_moves) clear(wants_output, grad_grad_output), clear(wants_grid, grad_grid);
    if (!grid_moves) clear(wants_input, grad_input);
  }

  bool is_done() const { return !wants_output && !wants_input && !wants_grid; }

  // In the layout of the grid. Kernels know points that lie in one row; few grids lie otherwise.
  Tensor gradient_of(const Tensor& grid) const {
    if (grad_grid.dim() != grid.dim() || !prefers_channels_last(grid)) return grad_grid;
    Tensor arranged = empty_in_layout_of(grid);
    torch::stable::copy_(arranged, grad_grid);
    return arranged;
  }

 private:
  static void clear(bool& wanted, const Tensor& result) {
    if (wanted) fill_zero(result);
    wanted = false;
  }
};

// Of a double backward: what moves. A grid whose points are rounded does not.
struct Directions {
  std::optional<Tensor> input, grid;

  Directions(const Geometry& geometry, const std::optional<Tensor>& grad_grad_input,
             const std::optional<Tensor>& grad_grad_grid, const Tensor& of_input, const Tensor& of_grid)
      : input(grad_grad_input) {
    if (grad_grad_input) check_like(kOp, "grad_grad_input", *grad_grad_input, "input", of_input);
    if (grad_grad_grid) check_like(kOp, "grad_grad_grid", *grad_grad_grid, "grid", of_grid);
    if (geometry.mode != kNearest) grid = grad_grad_grid;
  }
};

}  // namespace handgrad::grid_sample
