// What the host entries of all devices share: the numbers of a call, its checks, the matrices, and the results.
#pragma once

#include <algorithm>
#include <array>

#include "abi/images.h"
#include "abi/output_mask.h"
#include "abi/view.h"
#include "kinds/formula.h"
#include "warp_math.h"

namespace handgrad::warp {

inline constexpr const char* kOp = "warp";
// The most pixels of an image or an output along an axis: float holds whole numbers up to here, and their halves.
inline constexpr int64_t kMost = int64_t{1} << 22;

// The numbers of an op, as its schema has them.
struct Arguments {
  const std::optional<Tensor>& matrix;  // [N, 2 or 3, 3]
  const std::vector<double>& numbers;
  int64_t height, width, interpolation;
  const std::vector<double>& fill;
  bool centered;
};

// The matrices of all images, in a tensor or in nine numbers, and directions of them.
struct MatrixTable {
  View<const double, 3> matrices, directions;  // [N, 2 or 3, 3]
  double shared[9];
  bool projective;

  // The divisors are those of torch's grid: of float where coordinates are float.
  template <class N>
  HANDGRAD_MATH Matrix<N> matrix(const Frame& frame, int64_t n) const {
    using C = Plain<N>;
    Matrix<N> made;
    for (int r = 0; r < 3; ++r) {
      const C half = r == 2 ? C(1) : static_cast<C>(0.5 * static_cast<double>(r == 0 ? frame.width : frame.height));
      for (int k = 0; k < 3; ++k) {
        const bool there = r < 2 || projective;
        const double number = !there ? 0 : matrices ? *matrices.at(n, r, k) : shared[3 * r + k];
        made.of[3 * r + k] = N(static_cast<C>(number)) / N(half);
        if constexpr (!std::is_same_v<N, C>) {
          made.of[3 * r + k].tangent = there && directions ? static_cast<C>(*directions.at(n, r, k)) / half : C(0);
        }
      }
    }
    return made;
  }
  HANDGRAD_MATH int64_t rows() const { return projective ? 3 : 2; }
};

inline MatrixTable matrix_table(const Arguments& arguments,
                                const std::optional<Tensor>& directions = std::nullopt) {  // [N, 2 or 3, 3]
  MatrixTable table{view<double, 3>(arguments.matrix),
                    view<double, 3>(directions),
                    {},
                    arguments.matrix ? arguments.matrix->sizes()[1] == 3 : arguments.numbers.size() == 9};
  if (!arguments.matrix) std::copy(arguments.numbers.begin(), arguments.numbers.end(), table.shared);
  return table;
}

// The number that channel c of an image is surrounded by.
inline double fill_of(const std::vector<double>& fill, int64_t c) {
  return fill.empty() ? 0.0 : fill[fill.size() > 1 ? static_cast<size_t>(c) : 0];
}

inline void check_matrix(const Tensor& image, const Arguments& arguments) {
  if (!arguments.matrix) {
    HANDGRAD_CHECK(arguments.numbers.size() == 6 || arguments.numbers.size() == 9, kOp,
                   ": matrix must have 2 or 3 rows of 3 numbers; got ", arguments.numbers.size(), " numbers");
    return;
  }
  const Tensor& matrix = *arguments.matrix;
  HANDGRAD_CHECK(matrix.scalar_type() == ScalarType::Double, kOp, ": matrix must be float64; got ",
                 dtype_text(matrix.scalar_type()));
  check_device(kOp, "matrix", matrix, "image", image);
  check_rank(kOp, "matrix", matrix, 3, "(images, 2 or 3, 3)");
  const Sizes sizes = matrix.sizes();
  HANDGRAD_CHECK(sizes[0] == image.sizes()[0] && (sizes[1] == 2 || sizes[1] == 3) && sizes[2] == 3, kOp,
                 ": matrix must have shape (images, 2 or 3, 3), here (", image.sizes()[0], ", 2 or 3, 3); got ",
                 shape_text(matrix));
}

inline Frame check_arguments(const Tensor& image,  // [N, C, H, W]
                             const Arguments& arguments) {
  check_image(kOp, image);
  const Sizes sizes = image.sizes();
  HANDGRAD_CHECK(sizes[2] > 0 && sizes[3] > 0 && sizes[2] <= kMost && sizes[3] <= kMost, kOp,
                 ": image must have at least 1 and at most 2^22 rows and columns; got ", shape_text(image));
  HANDGRAD_CHECK(arguments.height > 0 && arguments.width > 0 && arguments.height <= kMost && arguments.width <= kMost,
                 kOp, ": size must be at least 1 and at most 2^22; got ", arguments.height, " x ", arguments.width);
  HANDGRAD_CHECK(arguments.interpolation == 0 || arguments.interpolation == 1, kOp,
                 ": interpolation must be 0 (nearest) or 1 (bilinear); got ", arguments.interpolation);
  HANDGRAD_CHECK(arguments.fill.size() <= 1 || static_cast<int64_t>(arguments.fill.size()) == sizes[1], kOp,
                 ": fill must be a number, or one a channel, ", sizes[1], "; got ", arguments.fill.size());
  for (const double level : arguments.fill) {
    HANDGRAD_CHECK(image.scalar_type() != ScalarType::Byte || (level >= 0 && level <= 255), kOp,
                   ": fill must be from 0 to 255 beside a uint8 image; got ", level);
  }
  check_matrix(image, arguments);
  return {sizes[0],
          sizes[1],
          sizes[2],
          sizes[3],
          arguments.height,
          arguments.width,
          arguments.interpolation == 1,
          !arguments.fill.empty(),
          arguments.centered,
          matrix_table(arguments).projective};
}

inline Tensor empty_output(const Frame& frame, const Tensor& image) {
  const int64_t sizes[4] = {frame.batch, frame.channels, frame.out_height, frame.out_width};
  return empty_image(Sizes(sizes, 4), image.scalar_type(), 0, image);
}

// What the derivatives share: the image must be one that has any.
inline Frame check_derivative(const Tensor& image,  // [N, C, H, W]
                              const Arguments& arguments,
                              const Tensor& grad_output) {  // [N, C, height, width]
  check_floating(kOp, "image", image);
  const Frame frame = check_arguments(image, arguments);
  check_dtype_and_device(kOp, "grad_output", grad_output, "image", image);
  check_shape(kOp, "grad_output", grad_output, {frame.batch, frame.channels, frame.out_height, frame.out_width},
              "(batch, channels, *size)");
  return frame;
}

// An empty gradient of the matrix, or what stands for one that nobody asked for.
inline Tensor matrix_gradient(bool wanted, const Arguments& arguments, const Tensor& image) {
  const Tensor& like = arguments.matrix ? *arguments.matrix : image;
  return wanted ? empty_contiguous(like.sizes(), like) : empty_placeholder(like);
}

// The results of a backward (of all that a double backward has, the last two).
struct Results {
  bool wants_output, wants_image, wants_matrix;
  Tensor grad_grad_output;  // [N, C, height, width]
  Tensor grad_image;        // [N, C, H, W]
  Tensor grad_matrix;       // [N, 2 or 3, 3]

  Results(const Frame& frame, const Arguments& arguments, const Tensor& image, std::array<bool, 3> wanted)
      : wants_output(wanted[0]),
        wants_image(wanted[1]),
        wants_matrix(wanted[2] && arguments.matrix.has_value()),
        grad_grad_output(wants_output ? empty_output(frame, image) : empty_placeholder(image)),
        grad_image(empty_gradient(wants_image, image)),
        grad_matrix(matrix_gradient(wants_matrix, arguments, image)) {}

  // Whether nothing is left to be computed: of no image or no channel, everything is zero.
  bool is_done(const Frame& frame) {
    const bool nothing = frame.batch * frame.channels == 0;
    if (!nothing) return !wants_output && !wants_image && !wants_matrix;
    if (wants_output) fill_zero(grad_grad_output);
    if (wants_image) fill_zero(grad_image);
    if (wants_matrix) fill_zero(grad_matrix);
    return true;
  }
};

inline void check_directions(const Tensor& image, const Arguments& arguments,
                             const std::optional<Tensor>& grad_grad_image,
                             const std::optional<Tensor>& grad_grad_matrix) {
  if (grad_grad_image) check_like(kOp, "grad_grad_image", *grad_grad_image, "image", image);
  if (grad_grad_matrix && arguments.matrix) {
    check_like(kOp, "grad_grad_matrix", *grad_grad_matrix, "matrix", *arguments.matrix);
  }
}

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has output<T>(frame, table, fill, image, output) and, for both derivatives, gradients<T, N>(frame, table,
// fill, image, direction, grad_output, results); N is Compute<T>, or a Dual of it for what is differentiated once more.
template <class Device>
Tensor value(const Tensor& image,                  // [N, C, H, W]
             const std::optional<Tensor>& matrix,  // [N, 2 or 3, 3]
             const std::vector<double>& numbers, int64_t height, int64_t width, int64_t interpolation,
             const std::vector<double>& fill, bool centered) {
  const Arguments arguments{matrix, numbers, height, width, interpolation, fill, centered};
  const Frame frame = check_arguments(image, arguments);
  const Tensor output = empty_output(frame, image);
  if (output.numel() == 0) return output;
  const MatrixTable table = matrix_table(arguments);
  if (image.scalar_type() == ScalarType::Byte) {
    Device::template output<uint8_t>(frame, table, fill, image, output);
  } else {
    dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
      Device::template output<typename decltype(tag)::type>(frame, table, fill, image, output);
    });
  }
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,            // [N, C, height, width]
                                    const Tensor& image,                  // [N, C, H, W]
                                    const std::optional<Tensor>& matrix,  // [N, 2 or 3, 3]
                                    const std::vector<double>& numbers, int64_t height, int64_t width,
                                    int64_t interpolation, const std::vector<double>& fill, bool centered,
                                    const std::vector<bool>& output_mask) {
  const Arguments arguments{matrix, numbers, height, width, interpolation, fill, centered};
  const Frame frame = check_derivative(image, arguments, grad_output);
  const std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  Results results(frame, arguments, image, {false, wanted[0], wanted[1]});
  if (results.is_done(frame)) return {results.grad_image, results.grad_matrix};
  const MatrixTable table = matrix_table(arguments);
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Device::template gradients<T, Compute<T>>(frame, table, fill, image, std::nullopt, grad_output, results);
  });
  return {results.grad_image, results.grad_matrix};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_image,   // [N, C, H, W]
                                                   const std::optional<Tensor>& grad_grad_matrix,  // [N, 2 or 3, 3]
                                                   const Tensor& grad_output,            // [N, C, height, width]
                                                   const Tensor& image,                  // [N, C, H, W]
                                                   const std::optional<Tensor>& matrix,  // [N, 2 or 3, 3]
                                                   const std::vector<double>& numbers, int64_t height, int64_t width,
                                                   int64_t interpolation, const std::vector<double>& fill,
                                                   bool centered, const std::vector<bool>& output_mask) {
  const Arguments arguments{matrix, numbers, height, width, interpolation, fill, centered};
  const Frame frame = check_derivative(image, arguments, grad_output);
  check_directions(image, arguments, grad_grad_image, grad_grad_matrix);
  Results results(frame, arguments, image, as_output_mask<3>(kOp, output_mask));
  if (results.is_done(frame)) return {results.grad_grad_output, results.grad_image, results.grad_matrix};
  const MatrixTable table = matrix_table(arguments, grad_grad_matrix);
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Device::template gradients<T, Dual<Compute<T>>>(frame, table, fill, image, grad_grad_image, grad_output, results);
  });
  return {results.grad_grad_output, results.grad_image, results.grad_matrix};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::warp
