// What the host entries of all devices share: the numbers of a call, its checks, the matrices, and where they lead to.
#pragma once

#include <algorithm>
#include <array>

#include "abi/view.h"
#include "kinds/formula.h"
#include "kinds/image_sample.h"
#include "warp_math.h"

namespace handgrad::warp {

inline constexpr const char* kOp = "warp";

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

// Where the pixels of an image's output are read.
template <class N>
struct ImagePlaces {
  Frame frame;
  Matrix<N> matrix;

  HANDGRAD_MATH Position<N> point(int64_t i, int64_t j) const {
    using C = Plain<N>;
    return {frame, matrix, frame.base<C>(j, frame.out_width), frame.base<C>(i, frame.out_height)};
  }
};

struct Places {
  Frame frame;
  MatrixTable table;

  template <class N>
  HANDGRAD_MATH ImagePlaces<N> of_image(int64_t n) const {
    return {frame, table.matrix<N>(frame, n)};
  }
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
  const ImageFrame frame =
      check_sampled(kOp, image, arguments.height, arguments.width, arguments.interpolation, arguments.fill);
  check_matrix(image, arguments);
  return {frame, arguments.centered, matrix_table(arguments).projective};
}

inline void check_directions(const Tensor& image, const Arguments& arguments,
                             const std::optional<Tensor>& grad_grad_image,
                             const std::optional<Tensor>& grad_grad_matrix) {
  if (grad_grad_image) check_like(kOp, "grad_grad_image", *grad_grad_image, "image", image);
  if (grad_grad_matrix && arguments.matrix) {
    check_like(kOp, "grad_grad_matrix", *grad_grad_matrix, "matrix", *arguments.matrix);
  }
}

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has output<T>(places, fill, image, output) and, for both derivatives, gradients<T, N>(places, fill, image,
// direction, grad_output, results); N is Compute<T>, or a Dual of it for what is differentiated once more.
template <class Device>
Tensor value(const Tensor& image,                  // [N, C, H, W]
             const std::optional<Tensor>& matrix,  // [N, 2 or 3, 3]
             const std::vector<double>& numbers, int64_t height, int64_t width, int64_t interpolation,
             const std::vector<double>& fill, bool centered) {
  const Arguments arguments{matrix, numbers, height, width, interpolation, fill, centered};
  const Places places{check_arguments(image, arguments), matrix_table(arguments)};
  const Tensor output = empty_output(places.frame, image);
  if (output.numel() == 0) return output;
  dispatch_image(kOp, image,
                 [&](auto tag) { Device::template output<typename decltype(tag)::type>(places, fill, image, output); });
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
  const Places places{check_arguments(image, arguments), matrix_table(arguments)};
  check_grad_output(kOp, places.frame, image, grad_output);
  const std::array<bool, 2> wanted = as_output_mask<2>(kOp, output_mask);
  Results results(places.frame, matrix, image, {false, wanted[0], wanted[1]});
  if (results.is_done(places.frame)) return {results.grad_image, results.grad_where};
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Device::template gradients<T, Compute<T>>(places, fill, image, std::nullopt, grad_output, results);
  });
  return {results.grad_image, results.grad_where};
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
  const Frame frame = check_arguments(image, arguments);
  check_grad_output(kOp, frame, image, grad_output);
  check_directions(image, arguments, grad_grad_image, grad_grad_matrix);
  const Places places{frame, matrix_table(arguments, grad_grad_matrix)};
  Results results(frame, matrix, image, as_output_mask<3>(kOp, output_mask));
  if (results.is_done(frame)) return {results.grad_grad_output, results.grad_image, results.grad_where};
  dispatch_floating(kOp, image.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Device::template gradients<T, Dual<Compute<T>>>(places, fill, image, grad_grad_image, grad_output, results);
  });
  return {results.grad_grad_output, results.grad_image, results.grad_where};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::warp
