// What the host entries of all devices share: the sizes of a call, its checks, its results, and the entries themselves,
// of passes that a device brings.
#pragma once

#include <cmath>
#include <vector>

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "correlation_lookup_math.h"
#include "kinds/formula.h"

namespace handgrad::correlation_lookup {

inline constexpr const char* kOp = "correlation_lookup";
// A window's products are in a block's shared memory.
inline constexpr int64_t kLargestRadius = 15;

struct Geometry {
  int64_t batch, channels, height, width;  // of fmap1
  int64_t map_height, map_width;           // of fmap2
  int64_t radius;
  double scale;  // what products are multiplied by

  // Outputs and window pixels along an axis.
  HANDGRAD_MATH int64_t across() const { return 2 * radius + 1; }
  HANDGRAD_MATH int64_t side() const { return 2 * radius + 2; }
  int64_t outputs() const { return across() * across(); }
  int64_t window() const { return side() * side(); }
};

inline Geometry check_arguments(const Tensor& fmap1,   // [N, C, H, W]
                                const Tensor& fmap2,   // [N, C, H2, W2]
                                const Tensor& coords,  // [N, 2, H, W]
                                int64_t radius) {
  check_floating(kOp, "fmap1", fmap1);
  check_rank(kOp, "fmap1", fmap1, 4, "(batch, channels, height, width)");
  check_rank(kOp, "fmap2", fmap2, 4, "(batch, channels, height, width)");
  check_dtype_and_device(kOp, "fmap2", fmap2, "fmap1", fmap1);
  const Sizes one = fmap1.sizes(), other = fmap2.sizes();
  HANDGRAD_CHECK(one[0] == other[0] && one[1] == other[1], kOp,
                 ": fmap2 must have the batch and the channels of fmap1, ", shape_text(fmap1), "; got ",
                 shape_text(fmap2));
  const ScalarType computed = fmap1.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  HANDGRAD_CHECK(coords.scalar_type() == computed, kOp, ": coords must have the type that fmap1 is computed in, ",
                 dtype_text(computed), "; got ", dtype_text(coords.scalar_type()));
  check_device(kOp, "coords", coords, "fmap1", fmap1);
  check_shape(kOp, "coords", coords, {one[0], 2, one[2], one[3]}, "(batch, 2, height of fmap1, width of fmap1)");
  HANDGRAD_CHECK(radius >= 0 && radius <= kLargestRadius, kOp, ": radius must be at least 0 and at most ",
                 kLargestRadius, "; got ", radius);
  Geometry geometry{one[0], one[1], one[2], one[3], other[2], other[3], radius, 1.0};
  if (geometry.channels > 0) geometry.scale = 1.0 / std::sqrt(static_cast<double>(geometry.channels));
  return geometry;
}

inline Tensor empty_output(const Geometry& geometry, const Tensor& fmap1) {
  const int64_t sizes[4] = {geometry.batch, geometry.outputs(), geometry.height, geometry.width};
  return empty_contiguous(Sizes(sizes, 4), fmap1);
}

inline void check_grad_output(const Geometry& geometry, const Tensor& grad_output, const Tensor& fmap1) {
  check_dtype_and_device(kOp, "grad_output", grad_output, "fmap1", fmap1);
  check_shape(kOp, "grad_output", grad_output, {geometry.batch, geometry.outputs(), geometry.height, geometry.width},
              "(batch, (2 radius + 1)^2, height, width)");
}

// What the double backward differentiates along; each may be None: zero.
struct Directions {
  const Tensor *fmap1 = nullptr, *fmap2 = nullptr, *coords = nullptr;

  Directions() = default;
  Directions(const std::optional<Tensor>& of_fmap1, const std::optional<Tensor>& of_fmap2,
             const std::optional<Tensor>& of_coords)
      : fmap1(of_fmap1 ? &*of_fmap1 : nullptr),
        fmap2(of_fmap2 ? &*of_fmap2 : nullptr),
        coords(of_coords ? &*of_coords : nullptr) {}
};

// What a pass reads.
struct Inputs {
  const Geometry& geometry;
  const Tensor &fmap1, &fmap2, &coords;
  const Tensor* grad_output = nullptr;  // of the derivatives
  Directions along = {};
};

// What is to be filled, where it is wanted.
struct Results {
  bool wants_output = false, wants_fmap1 = false, wants_fmap2 = false, wants_coords = false;
  Tensor output, fmap1, fmap2, coords;  // the last three are gradients

  Results(const Inputs& inputs, bool wants_output, bool wants_fmap1, bool wants_fmap2, bool wants_coords)
      : wants_output(wants_output),
        wants_fmap1(wants_fmap1),
        wants_fmap2(wants_fmap2),
        wants_coords(wants_coords),
        output(wants_output ? empty_output(inputs.geometry, inputs.fmap1) : empty_placeholder(inputs.fmap1)),
        fmap1(empty_gradient(wants_fmap1, inputs.fmap1)),
        fmap2(empty_gradient(wants_fmap2, inputs.fmap2)),
        coords(empty_gradient(wants_coords, inputs.coords)) {}
};

// ---- entries --------------------------------------------------------------------------------------------------------

// A device has run<Twice>(inputs, results), which fills what is wanted; for Twice with how it changes along the
// directions.
template <class Device>
Tensor value(const Tensor& fmap1,   // [N, C, H, W]
             const Tensor& fmap2,   // [N, C, H2, W2]
             const Tensor& coords,  // [N, 2, H, W]
             int64_t radius) {
  const Geometry geometry = check_arguments(fmap1, fmap2, coords, radius);
  const Inputs inputs{geometry, fmap1, fmap2, coords};
  const Results results(inputs, true, false, false, false);
  Device::template run<false>(inputs, results);
  return results.output;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output,  // [N, outputs, H, W]
                                            const Tensor& fmap1,        // [N, C, H, W]
                                            const Tensor& fmap2,        // [N, C, H2, W2]
                                            const Tensor& coords,       // [N, 2, H, W]
                                            int64_t radius, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(fmap1, fmap2, coords, radius);
  check_grad_output(geometry, grad_output, fmap1);
  const std::array<bool, 3> wanted = as_output_mask<3>(kOp, output_mask);
  const Inputs inputs{geometry, fmap1, fmap2, coords, &grad_output};
  const Results results(inputs, false, wanted[0], wanted[1], wanted[2]);
  Device::template run<false>(inputs, results);
  return {results.fmap1, results.fmap2, results.coords};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
    const std::optional<Tensor>& grad_grad_fmap1,   // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_fmap2,   // [N, C, H2, W2]
    const std::optional<Tensor>& grad_grad_coords,  // [N, 2, H, W]
    const Tensor& grad_output,                      // [N, outputs, H, W]
    const Tensor& fmap1,                            // [N, C, H, W]
    const Tensor& fmap2,                            // [N, C, H2, W2]
    const Tensor& coords,                           // [N, 2, H, W]
    int64_t radius, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(fmap1, fmap2, coords, radius);
  check_grad_output(geometry, grad_output, fmap1);
  const Directions along(grad_grad_fmap1, grad_grad_fmap2, grad_grad_coords);
  if (along.fmap1) check_like(kOp, "grad_grad_fmap1", *along.fmap1, "fmap1", fmap1);
  if (along.fmap2) check_like(kOp, "grad_grad_fmap2", *along.fmap2, "fmap2", fmap2);
  if (along.coords) check_like(kOp, "grad_grad_coords", *along.coords, "coords", coords);
  const std::array<bool, 4> wanted = as_output_mask<4>(kOp, output_mask);
  const Inputs inputs{geometry, fmap1, fmap2, coords, &grad_output, along};
  const Results results(inputs, wanted[0], wanted[1], wanted[2], wanted[3]);
  Device::template run<true>(inputs, results);
  return {results.output, results.fmap1, results.fmap2, results.coords};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&value<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::correlation_lookup
