// What the host entries of all devices share: the sizes of a call, its checks, and its results.
#pragma once

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/output_mask.h"
#include "abi/tensor.h"
#include "abi/view.h"
#include "multi_scale_deformable_attention_math.h"

namespace handgrad::multi_scale_deformable_attention {

inline constexpr const char* kOp = "multi_scale_deformable_attention";
// Levels go to kernels by value.
inline constexpr int64_t kMostLevels = 32;

struct Geometry {
  int64_t batch, positions, heads, channels;  // of value
  int64_t queries, level_count, points;
  Level levels[kMostLevels];
  // Whether every position belongs to a level.
  bool covers_all;

  // What a query and head looks at: points innermost, then levels.
  HANDGRAD_MATH int64_t samples() const { return level_count * points; }
};

inline ScalarType compute_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_levels(Geometry& geometry, const std::vector<int64_t>& spatial_shapes,
                         const std::vector<int64_t>& level_start_index) {
  const int64_t count = static_cast<int64_t>(level_start_index.size());
  HANDGRAD_CHECK(count >= 1 && count <= kMostLevels, kOp, ": level_start_index must have from 1 to ", kMostLevels,
                 " levels; got ", count);
  HANDGRAD_CHECK(spatial_shapes.size() == 2 * level_start_index.size(), kOp,
                 ": spatial_shapes must have a height and a width for each level, ", 2 * count, " numbers; got ",
                 spatial_shapes.size());
  geometry.level_count = count;
  int64_t end = 0, covered = 0;
  for (int64_t l = 0; l < count; ++l) {
    const auto level = static_cast<size_t>(l);
    const int64_t height = spatial_shapes[2 * level], width = spatial_shapes[2 * level + 1];
    HANDGRAD_CHECK(height >= 1 && width >= 1 && height <= INT32_MAX && width <= INT32_MAX, kOp,
                   ": spatial_shapes must be at least 1 x 1 and below 2^31; got ", height, " x ", width);
    const int64_t start = level_start_index[level];
    HANDGRAD_CHECK(start >= end, kOp, ": level_start_index must be increasing, each level's at least ", end,
                   " after those before it; got ", start, " for level ", l);
    // Compared so that nothing overflows.
    HANDGRAD_CHECK(start <= geometry.positions && width <= (geometry.positions - start) / height, kOp,
                   ": spatial_shapes and level_start_index must leave every level within the positions of value, ",
                   geometry.positions, "; got level ", l, " of ", height, " x ", width, " from ", start, " on");
    end = start + height * width;
    covered += height * width;
    geometry.levels[l] = {static_cast<int32_t>(height), static_cast<int32_t>(width), start};
  }
  geometry.covers_all = covered == geometry.positions;
}

inline Geometry check_arguments(const Tensor& value,               // [B, S, heads, channels]
                                const Tensor& sampling_locations,  // [B, Q, heads, levels, points, 2]
                                const Tensor& attention_weights,   // [B, Q, heads, levels, points]
                                const std::vector<int64_t>& spatial_shapes,
                                const std::vector<int64_t>& level_start_index) {
  check_floating(kOp, "value", value);
  check_rank(kOp, "value", value, 4, "(batch, positions, heads, channels)");
  check_rank(kOp, "sampling_locations", sampling_locations, 6, "(batch, queries, heads, levels, points, 2)");
  const ScalarType wanted = compute_dtype(value.scalar_type());
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor&>{"sampling_locations", sampling_locations},
                                     {"attention_weights", attention_weights}}) {
    HANDGRAD_CHECK(tensor.scalar_type() == wanted, kOp, ": ", name, " must have the type that value is computed in, ",
                   dtype_text(wanted), "; got ", dtype_text(tensor.scalar_type()));
    check_device(kOp, name, tensor, "value", value);
  }
  const Sizes sizes = value.sizes(), looked = sampling_locations.sizes();
  Geometry geometry{};
  geometry.batch = sizes[0], geometry.positions = sizes[1], geometry.heads = sizes[2], geometry.channels = sizes[3];
  geometry.queries = looked[1], geometry.points = looked[4];
  check_levels(geometry, spatial_shapes, level_start_index);
  check_shape(kOp, "sampling_locations", sampling_locations,
              {geometry.batch, geometry.queries, geometry.heads, geometry.level_count, geometry.points, 2},
              "(batch, queries, heads, levels, points, 2)");
  check_shape(kOp, "attention_weights", attention_weights,
              {geometry.batch, geometry.queries, geometry.heads, geometry.level_count, geometry.points},
              "(batch, queries, heads, levels, points)");
  return geometry;
}

inline void check_grad_output(const Geometry& geometry, const Tensor& grad_output, const Tensor& value) {
  check_dtype_and_device(kOp, "grad_output", grad_output, "value", value);
  check_shape(kOp, "grad_output", grad_output, {geometry.batch, geometry.queries, geometry.heads * geometry.channels},
              "(batch, queries, heads * channels)");
}

inline Tensor empty_output(const Geometry& geometry, const Tensor& value) {
  const int64_t sizes[3] = {geometry.batch, geometry.queries, geometry.heads * geometry.channels};
  return empty_contiguous(Sizes(sizes, 3), value);
}

// What the double backward differentiates along; each may be None: zero.
struct Directions {
  const std::optional<Tensor>&value, &sampling_locations, &attention_weights;

  bool moves() const { return sampling_locations || attention_weights; }

  void check(const Tensor& of_value, const Tensor& of_locations, const Tensor& of_weights) const {
    if (value) check_like(kOp, "grad_grad_value", *value, "value", of_value);
    if (sampling_locations) {
      check_like(kOp, "grad_grad_sampling_locations", *sampling_locations, "sampling_locations", of_locations);
    }
    if (attention_weights) {
      check_like(kOp, "grad_grad_attention_weights", *attention_weights, "attention_weights", of_weights);
    }
  }
};

// The results of the backward, contiguous; to be filled where they are wanted.
struct Backward {
  bool wants_value, wants_locations, wants_weights;
  Tensor grad_value, grad_locations, grad_weights;

  Backward(const Tensor& value, const Tensor& sampling_locations, const Tensor& attention_weights,
           const std::array<bool, 3>& wanted)
      : wants_value(wanted[0]),
        wants_locations(wanted[1]),
        wants_weights(wanted[2]),
        grad_value(gradient(wants_value, value)),
        grad_locations(gradient(wants_locations, sampling_locations)),
        grad_weights(gradient(wants_weights, attention_weights)) {}

  bool wants_sums() const { return wants_locations || wants_weights; }
  bool is_done() const { return !wants_value && !wants_sums(); }

 protected:
  static Tensor gradient(bool wanted, const Tensor& tensor) {
    return wanted ? empty_contiguous(tensor.sizes(), tensor) : empty_placeholder(tensor);
  }
};

// The same of the double backward.
struct DoubleBackward : Backward {
  bool wants_grad_output;
  Tensor grad_grad_output;

  DoubleBackward(const Geometry& geometry, const Directions& along, const Tensor& value,
                 const Tensor& sampling_locations, const Tensor& attention_weights, const std::array<bool, 4>& wanted)
      : Backward(value, sampling_locations, attention_weights, {wanted[1], wanted[2], wanted[3]}),
        wants_grad_output(wanted[0]),
        grad_grad_output(wanted[0] ? empty_output(geometry, value) : empty_placeholder(value)) {
    // Nothing is to be done for what is zero whatever the numbers are: everything without a direction, and grad_value,
    // which does not depend on value, without one of the samples.
    const bool any = along.value || along.moves();
    if (!any) clear(wants_grad_output, grad_grad_output);
    if (!any) clear(wants_locations, grad_locations);
    if (!any) clear(wants_weights, grad_weights);
    if (!along.moves()) clear(wants_value, grad_value);
  }

  bool is_done() const { return Backward::is_done() && !wants_grad_output; }

 private:
  static void clear(bool& wanted, const Tensor& result) {
    if (wanted) fill_zero(result);
    wanted = false;
  }
};

}  // namespace handgrad::multi_scale_deformable_attention
