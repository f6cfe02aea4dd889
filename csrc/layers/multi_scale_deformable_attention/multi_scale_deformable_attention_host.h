// What the host entries of all devices share: the sizes of a call, its checks, and its results.
#pragma once

#include "kinds/formula.h"
#include "kinds/sampled_groups.h"
#include "multi_scale_deformable_attention_math.h"

namespace handgrad::multi_scale_deformable_attention {

using sampled_groups::SampledResults;
using sampled_groups::SampledTensors;

inline constexpr const char* kOp = "multi_scale_deformable_attention";

inline void check_levels(Geometry& geometry, const std::vector<int64_t>& spatial_shapes,
                         const std::vector<int64_t>& level_start_index) {
  const int64_t count = static_cast<int64_t>(level_start_index.size());
  HANDGRAD_CHECK(count >= 1 && count <= Geometry::kMostLevels, kOp, ": level_start_index must have from 1 to ",
                 Geometry::kMostLevels, " levels; got ", count);
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
  sampled_groups::check_computed(kOp, "sampling_locations", sampling_locations, "value", value);
  sampled_groups::check_computed(kOp, "attention_weights", attention_weights, "value", value);
  const Sizes sizes = value.sizes(), looked = sampling_locations.sizes();
  Geometry geometry{};
  geometry.op = kOp, geometry.coordinates_name = "sampling_locations";
  geometry.batch = sizes[0], geometry.positions = sizes[1], geometry.groups = sizes[2], geometry.channels = sizes[3];
  geometry.queries = looked[1], geometry.points = looked[4];
  check_levels(geometry, spatial_shapes, level_start_index);
  check_shape(kOp, "sampling_locations", sampling_locations,
              {geometry.batch, geometry.queries, geometry.groups, geometry.level_count, geometry.points, 2},
              "(batch, queries, heads, levels, points, 2)");
  check_shape(kOp, "attention_weights", attention_weights,
              {geometry.batch, geometry.queries, geometry.groups, geometry.level_count, geometry.points},
              "(batch, queries, heads, levels, points)");
  return geometry;
}

inline std::array<int64_t, 3> output_sizes(const Geometry& geometry) {
  return {geometry.batch, geometry.queries, geometry.groups * geometry.channels};
}

inline void check_grad_output(const Geometry& geometry, const Tensor& grad_output, const Tensor& value) {
  check_dtype_and_device(kOp, "grad_output", grad_output, "value", value);
  check_shape(kOp, "grad_output", grad_output, {geometry.batch, geometry.queries, geometry.groups * geometry.channels},
              "(batch, queries, heads * channels)");
}

inline SampledTensors tensors_of(const Tensor& value, const Tensor& sampling_locations,
                                 const Tensor& attention_weights) {
  SampledTensors tensors;
  tensors.value = value;
  tensors.coordinates = sampling_locations;
  tensors.factors = attention_weights;
  return tensors;
}

inline void set_results(SampledTensors& tensors, const SampledResults& results) {
  if (results.wants_output) tensors.output = results.output;
  if (results.wants_value) tensors.grad_value = results.value;
  if (results.wants_coordinates) tensors.grad_coordinates = results.coordinates;
  if (results.wants_factors) tensors.grad_factors = results.factors;
}

// ---- host entries ---------------------------------------------------------------------------------------------------

template <class Device>
Tensor forward(const Tensor& value,               // [B, S, heads, channels]
               const Tensor& sampling_locations,  // [B, Q, heads, levels, points, 2]
               const Tensor& attention_weights,   // [B, Q, heads, levels, points]
               const std::vector<int64_t>& spatial_shapes, const std::vector<int64_t>& level_start_index) {
  const Geometry geometry =
      check_arguments(value, sampling_locations, attention_weights, spatial_shapes, level_start_index);
  const std::array<int64_t, 3> sizes = output_sizes(geometry);
  const Tensor output = empty_contiguous(Sizes(sizes.data(), 3), value);
  SampledTensors tensors = tensors_of(value, sampling_locations, attention_weights);
  tensors.output = output;
  Device::forward(geometry, tensors);
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output,         // [B, Q, heads * channels]
                                            const Tensor& value,               // [B, S, heads, channels]
                                            const Tensor& sampling_locations,  // [B, Q, heads, levels, points, 2]
                                            const Tensor& attention_weights,   // [B, Q, heads, levels, points]
                                            const std::vector<int64_t>& spatial_shapes,
                                            const std::vector<int64_t>& level_start_index,
                                            const std::vector<bool>& output_mask) {
  const Geometry geometry =
      check_arguments(value, sampling_locations, attention_weights, spatial_shapes, level_start_index);
  check_grad_output(geometry, grad_output, value);
  const std::array<bool, 3> wanted = as_output_mask<3>(kOp, output_mask);
  const SampledResults results({}, value, sampling_locations, attention_weights,
                               {false, wanted[0], wanted[1], wanted[2]});
  if (!results.is_done()) {
    SampledTensors tensors = tensors_of(value, sampling_locations, attention_weights);
    tensors.grad_output = grad_output;
    set_results(tensors, results);
    Device::backward(geometry, tensors);
  }
  return {results.value, results.coordinates, results.factors};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
    const std::optional<Tensor>& grad_grad_value, const std::optional<Tensor>& grad_grad_sampling_locations,
    const std::optional<Tensor>& grad_grad_attention_weights,
    const Tensor& grad_output,         // [B, Q, heads * channels]
    const Tensor& value,               // [B, S, heads, channels]
    const Tensor& sampling_locations,  // [B, Q, heads, levels, points, 2]
    const Tensor& attention_weights,   // [B, Q, heads, levels, points]
    const std::vector<int64_t>& spatial_shapes, const std::vector<int64_t>& level_start_index,
    const std::vector<bool>& output_mask) {
  const Geometry geometry =
      check_arguments(value, sampling_locations, attention_weights, spatial_shapes, level_start_index);
  check_grad_output(geometry, grad_output, value);
  const auto check_direction = [](const char* name, const std::optional<Tensor>& v, const char* of_name,
                                  const Tensor& of) {
    if (v) check_like(kOp, name, *v, of_name, of);
  };
  check_direction("grad_grad_value", grad_grad_value, "value", value);
  check_direction("grad_grad_sampling_locations", grad_grad_sampling_locations, "sampling_locations",
                  sampling_locations);
  check_direction("grad_grad_attention_weights", grad_grad_attention_weights, "attention_weights", attention_weights);
  const std::array<int64_t, 3> sizes = output_sizes(geometry);
  SampledResults results(Sizes(sizes.data(), 3), value, sampling_locations, attention_weights,
                         as_output_mask<4>(kOp, output_mask));
  results.clear_what_stands_still(grad_grad_value.has_value(),
                                  grad_grad_sampling_locations || grad_grad_attention_weights);
  if (!results.is_done()) {
    SampledTensors tensors = tensors_of(value, sampling_locations, attention_weights);
    tensors.v_value = grad_grad_value;
    tensors.v_coordinates = grad_grad_sampling_locations;
    tensors.v_factors = grad_grad_attention_weights;
    tensors.grad_output = grad_output;
    set_results(tensors, results);
    Device::double_backward(geometry, tensors);
  }
  return {results.output, results.value, results.coordinates, results.factors};
}

template <class Device, class Library>
void implement(Library& library) {
  implement_differentiable<&forward<Device>, &backward<Device>, &double_backward<Device>>(library, kOp);
}

}  // namespace handgrad::multi_scale_deformable_attention
